"""Every check by name: the one table of limits."""

from melodac.training.doctor.findings import Check
from melodac.training.doctor.run_checks import CODEBOOK_CHECKS, LOSS_CHECKS, RATE_CHECKS
from melodac.training.doctor.weight_checks import WEIGHT_CHECKS

CHECKS: dict[str, Check] = {
    check.name: check for check in WEIGHT_CHECKS + LOSS_CHECKS + RATE_CHECKS + CODEBOOK_CHECKS
}
