"""Everything that the checks read of a run: its log, its loss curve, codebooks and checkpoints.

Medians everywhere: one bad update decides nothing. A log holds what is not finite as a word, as
JSON has no such numbers; here it is a number again. What was not logged is None, never zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from melodac.doctor.differences import Factor, Present
from melodac.doctor.snapshots import Snapshot
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.training.checkpoint import Checkpoint

Line = Mapping[str, Any]
Losses = Float64[np.ndarray, " _"]

MIN_UPDATES = 40
"""Number of updates below which a curve has no shape."""
FIRST_UPDATES = 3
SPIKE_SIGMA = 8.0
"""Robust standard deviations of a spike where `train.stability.sigma` names none."""
_WORDS = frozenset({"nan", "inf", "-inf"})
_BINS = 100


class RunLog(NamedTuple):
    """Lines of a training log by kind."""

    train: tuple[Line, ...]
    """Every update, refused ones too."""
    accepted: tuple[Line, ...]
    """Updates that changed a weight."""
    validations: tuple[Line, ...]
    events: tuple[Line, ...]

    def losses(self) -> Losses:
        """Return the loss of each accepted update, in nats per code."""
        return np.array([line["loss"] for line in self.accepted], dtype=np.float64)

    def late(self) -> tuple[Line, ...]:
        """Return the accepted updates that stand for the present state."""
        return self.accepted[-late_window(len(self.accepted)) :]

    def events_named(self, *names: str) -> list[Line]:
        """Return the events with one of some names."""
        return [line for line in self.events if line.get("event") in names]


class Curve(NamedTuple):
    """Loss of a run in a few numbers, nats per code; None where there is too little of it."""

    updates: int
    uniform: float
    """Loss of a uniform guess."""
    first: float | None
    lowest: float | None
    """Least of the running medians."""
    late: float | None
    """Median of the last tenth."""
    gain: float | None
    """Fall over the last half, by the Theil-Sen slope."""
    best_validation: float | None
    best_update: int | None
    last_validation: float | None


class Codebook(NamedTuple):
    """Measurements of one codebook at the end of a run; None where it was not measured."""

    codebook: int
    train_nats: float | None
    """Median of the last tenth of the updates."""
    validation_nats: float | None
    unigram_nats: float | None
    """Held-out loss of a model that knows how frequent codes are and nothing else."""
    usage: float | None
    """Distinct codes sampled from the predictions."""
    generated_usage: float | None
    """Distinct codes of generated clips."""
    target_usage: float | None
    """Distinct codes of the truth, on as many cells."""
    sampled_entropy: float | None
    target_entropy: float | None


@dataclass(frozen=True)
class Run:
    """Run that is examined, with all that was measured of it."""

    checkpoints: Sequence[Checkpoint]
    """Checkpoints in the order of their updates."""
    damaged: Sequence[str]
    """Why others could not be opened."""
    snapshots: Sequence[Snapshot]
    log: RunLog
    unigram: Sequence[float] | None
    """Held-out baseline of each codebook."""
    present: Present | None
    """Code and data of today."""
    factors: Sequence[Factor] | None
    """Decisions by which it differs from another run; None if there is no other."""

    @property
    def newest(self) -> Checkpoint:
        """Checkpoint of the highest update."""
        return self.checkpoints[-1]

    @property
    def train(self) -> Mapping[str, Any]:
        """Train section of the newest checkpoint's config."""
        return self.newest.config.get("train", {})

    @cached_property
    def curve(self) -> Curve:
        """Loss of the run in a few numbers."""
        return trace(self.log, self.newest.config)

    @cached_property
    def codebooks(self) -> list[Codebook]:
        """One row per codebook, from the end of the log."""
        return tabulate(self.log, self.unigram)


def read_log(lines: Sequence[Line]) -> RunLog:
    """Sort the lines of a log by kind; their order stays."""
    kinds: dict[str, list[Line]] = {"train": [], "validation": [], "event": []}
    for line in lines:
        read = {key: float(value) if value in _WORDS else value for key, value in line.items()}
        kinds.setdefault(line["kind"], []).append(read)
    accepted = (line for line in kinds["train"] if not line.get("is_skipped", False))
    train, validations, events = (tuple(kinds[kind]) for kind in ("train", "validation", "event"))
    return RunLog(train, tuple(accepted), validations, events)


def late_window(count: int) -> int:
    """Return how many updates stand for the present state: a tenth of the run, 10 to 200."""
    return int(np.clip(count // 10, 10, 200))


def spike_sigma(train: Mapping[str, Any]) -> float:
    """Return the robust standard deviations of a spike: the run's own, if it judges any."""
    return train.get("stability", {}).get("sigma") or SPIKE_SIGMA


def trace(log: RunLog, config: Mapping[str, Any]) -> Curve:
    """Describe the loss of a run."""
    losses = log.losses()
    # a resumed or shortened log may begin later
    has_start = len(losses) >= FIRST_UPDATES and log.accepted[0]["update"] <= FIRST_UPDATES
    medians = _running_medians(losses)
    best = min(log.validations, key=lambda line: line["loss"], default=None)
    return Curve(
        updates=len(losses),
        uniform=math.log(config.get("store", {}).get("codebook_size", CODEBOOK_SIZE)),
        first=float(np.median(losses[:FIRST_UPDATES])) if has_start else None,
        lowest=float(medians.min()) if len(medians) else None,
        late=float(medians[-1]) if len(medians) else None,
        gain=_gain(losses),
        best_validation=None if best is None else best["loss"],
        best_update=None if best is None else best["update"],
        last_validation=log.validations[-1]["loss"] if log.validations else None,
    )


def tabulate(log: RunLog, unigram: Sequence[float] | None) -> list[Codebook]:
    """Measure each codebook at the end of the log.

    Args:
        log: Lines of the run.
        unigram: Held-out baseline of each codebook, in the order of the run's columns.
    """
    late = log.late()
    last: Line = log.validations[-1] if log.validations else {}
    numbers = [
        int(key.removeprefix("loss_k"))
        for key in (*(late[-1] if late else ()), *last)
        if key.startswith("loss_k") and key.removeprefix("loss_k").isdecimal()
    ]
    baselines = dict(enumerate(unigram or ()))
    names = ("usage", "generated_usage", "target_usage", "sampled_entropy", "target_entropy")
    rows: list[Codebook] = []
    for codebook in range(max(numbers, default=-1) + 1):
        loss = f"loss_k{codebook}"
        nats = [line[loss] for line in late if loss in line and math.isfinite(line[loss])]
        said = (last.get(key) for key in (loss, *(f"{name}_k{codebook}" for name in names)))
        held_out, *others = (None if value is None else float(value) for value in said)
        median = float(np.median(nats)) if nats else None
        rows.append(Codebook(codebook, median, held_out, baselines.get(codebook), *others))
    return rows


def _running_medians(losses: Losses) -> Losses:
    """Return medians of windows that end at the end and overlap by half; NaN counts as infinite."""
    if len(losses) < MIN_UPDATES:
        return np.array([])
    size = late_window(len(losses))
    ends = range(len(losses), size - 1, -max(1, size // 2))
    safe = np.where(np.isfinite(losses), losses, np.inf)
    return np.array([np.median(safe[end - size : end]) for end in ends])[::-1]


def _gain(losses: Losses) -> float | None:
    """Return the fall of the loss over the last half of the updates.

    Source:
        Sen 1968: the median of the slopes over all pairs of points, which outliers do not move.
    """
    if len(losses) < MIN_UPDATES:
        return None
    half = losses[len(losses) // 2 :]
    bins = np.array([np.median(part) for part in np.array_split(half, min(_BINS, len(half)))])
    places = np.flatnonzero(np.isfinite(bins)).astype(np.float64)
    values = bins[np.isfinite(bins)]
    if len(values) < 2:
        return math.nan
    one, other = np.triu_indices(len(values), k=1)
    slopes = (values[other] - values[one]) / (places[other] - places[one])
    return -float(np.median(slopes)) * (len(bins) - 1)
