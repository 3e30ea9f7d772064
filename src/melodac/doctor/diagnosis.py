"""Examination of a run: checkpoints and log lines in, a typed report out; nothing is changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from melodac.doctor.checkpoint_checks import CHECKPOINT_CHECKS
from melodac.doctor.codebook_checks import CODEBOOK_CHECKS
from melodac.doctor.differences import Factor, Present, differing_factors
from melodac.doctor.findings import SEVERITIES, Finding, find
from melodac.doctor.log_checks import LOG_CHECKS
from melodac.doctor.run import Codebook, Curve, Line, Run, read_log, trace
from melodac.doctor.snapshots import Snapshot, measure
from melodac.errors import CheckpointCorruptError
from melodac.training.checkpoint import Checkpoint

CHECKS = CHECKPOINT_CHECKS | LOG_CHECKS | CODEBOOK_CHECKS
"""Every check by name; findings of equal severity are reported in this order."""


@dataclass(frozen=True)
class Patient:
    """Checkpoints and log of a run that is to be examined."""

    checkpoints: Sequence[Checkpoint]
    """Opened checkpoints, in any order; at least one."""
    damaged: Sequence[str]
    """Why others could not be opened."""
    lines: Sequence[Line]
    """Lines of its log; empty if there is none."""

    @property
    def newest(self) -> Checkpoint:
        """Checkpoint of the highest update."""
        return max(self.checkpoints, key=lambda checkpoint: checkpoint.update)


@dataclass(frozen=True)
class Report:
    """Measurements and findings of an examination."""

    update: int
    """Update of the newest checkpoint."""
    learning_rate: float | None
    """Learning rate of the last logged update."""
    torch_version: str | None
    snapshots: tuple[Snapshot, ...]
    curve: Curve
    codebooks: tuple[Codebook, ...]
    factors: tuple[Factor, ...] | None
    """Decisions by which it differs from the other run; None if there is no other."""
    other_curve: Curve | None
    """Loss of the other run, if the two differ by one decision at most."""
    findings: tuple[Finding, ...]
    """One finding per check, the worst first."""

    def exit_code(self, *, is_strict: bool = False) -> int:
        """Return 1 if a check failed or, where `is_strict`, gave a warning; else 0."""
        bad = {"failure", "warning"} if is_strict else {"failure"}
        return int(any(finding.severity in bad for finding in self.findings))


def examine(
    patient: Patient,
    *,
    unigram: Sequence[float] | None = None,
    present: Present | None = None,
    other: Patient | None = None,
) -> Report:
    """Examine a run.

    Args:
        patient: Its checkpoints and its log.
        unigram: Held-out baseline of each codebook, in the order of the run's columns.
        present: Code and data of today, to compare with; None compares nothing.
        other: Another run, to say by how many decisions the two differ.

    Raises:
        CheckpointCorruptError: If there is no checkpoint.
    """
    if not patient.checkpoints:
        raise CheckpointCorruptError("there is no checkpoint to examine: give a run that has one")
    checkpoints = sorted(patient.checkpoints, key=lambda checkpoint: checkpoint.update)
    config = checkpoints[-1].config
    factors = None if other is None else tuple(differing_factors(other.newest.config, config))
    run = Run(
        checkpoints=checkpoints,
        damaged=patient.damaged,
        snapshots=measure(checkpoints),
        log=read_log(patient.lines),
        unigram=unigram,
        present=present,
        factors=factors,
    )
    other_curve = None
    if other is not None and factors is not None and len(factors) <= 1:
        other_curve = trace(read_log(other.lines), other.newest.config)
    findings = [find(check, run) for check in CHECKS.values()]
    return Report(
        update=run.newest.update,
        learning_rate=run.log.train[-1]["learning_rate"] if run.log.train else None,
        torch_version=run.newest.state.get("versions", {}).get("torch"),
        snapshots=tuple(run.snapshots),
        curve=run.curve,
        codebooks=tuple(run.codebooks),
        factors=factors,
        other_curve=other_curve,
        findings=tuple(sorted(findings, key=lambda one: -SEVERITIES.index(one.severity))),
    )
