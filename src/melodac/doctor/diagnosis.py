"""The examination of a run: checkpoints and log lines in, a typed report out; nothing changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from melodac.doctor.codebooks import Codebook, check_codebooks, tabulate
from melodac.doctor.differences import (
    Factor,
    Present,
    check_difference,
    check_identity,
    differing_factors,
)
from melodac.doctor.findings import Finding, Measurement, judge, list_first, worst_first
from melodac.doctor.limits import limits_of
from melodac.doctor.parameters import Snapshot, check_weights, measure
from melodac.doctor.run_curves import Curve, Line, check_curve, check_rates, read_run, trace
from melodac.errors import CheckpointCorruptError
from melodac.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Patient:
    """What there is of a run."""

    checkpoints: Sequence[Checkpoint]
    """Opened ones, in any order; at least one. Their update numbers put them in order."""
    damaged: Sequence[str]
    """Why others could not be opened."""
    lines: Sequence[Line]
    """Of its log; empty if there is none."""

    @property
    def newest(self) -> Checkpoint:
        """The checkpoint of the highest update."""
        return max(self.checkpoints, key=lambda checkpoint: checkpoint.update)


@dataclass(frozen=True)
class Report:
    """What the doctor found."""

    update: int
    """Of the newest checkpoint."""
    learning_rate: float | None
    """Of the last logged update."""
    torch_version: str | None
    snapshots: tuple[Snapshot, ...]
    curve: Curve
    codebooks: tuple[Codebook, ...]
    factors: tuple[Factor, ...] | None
    """Decisions that part it from the other run; None if there is no other."""
    other_curve: Curve | None
    """Loss of the other run, if one decision or none parts the two: else it says nothing."""
    findings: tuple[Finding, ...]
    """One of every check, the worst first."""

    def exit_code(self, *, is_strict: bool = False) -> int:
        """1 if anything failed, or is so much as a warning where `is_strict`; else 0."""
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
    newest = patient.newest
    log = read_run(patient.lines)
    snapshots = measure(checkpoints)
    rows = tabulate(log, unigram)
    factors = None if other is None else differing_factors(other.newest.config, newest.config)

    def measured() -> Iterator[Measurement]:
        yield Measurement("damaged", float(len(patient.damaged)), list_first(patient.damaged))
        yield from check_identity(checkpoints, present)
        yield from check_weights(snapshots, newest.config, log)
        yield from check_curve(log, newest.config)
        yield from check_rates(log, newest.config)
        initial = newest.state.get("collapse", {}).get("initial_attention")
        yield from check_codebooks(rows, log, newest.config, initial)
        yield check_difference(factors)

    found = {one.check: one for one in measured()}
    checks = limits_of(newest.config.get("train", {}))
    unknown = (Measurement(name, None, "nothing to measure it by") for name in checks)
    return Report(
        update=newest.update,
        learning_rate=log.train[-1]["learning_rate"] if log.train else None,
        torch_version=newest.state.get("versions", {}).get("torch"),
        snapshots=tuple(snapshots),
        curve=trace(log, newest.config),
        codebooks=tuple(rows),
        factors=None if factors is None else tuple(factors),
        other_curve=_trace_other(other, factors),
        findings=worst_first(
            judge(checks[one.check], found.get(one.check, one)) for one in unknown
        ),
    )


def _trace_other(other: Patient | None, factors: Sequence[Factor] | None) -> Curve | None:
    if other is None or factors is None or len(factors) > 1:
        return None
    return trace(read_run(other.lines), other.newest.config)
