"""The training log read back, and checks of its curves: loss, learning rate, gradient norm, events.

Medians everywhere: one bad update decides nothing. What is not finite is a word in a log, as JSON
has no such numbers; here it is a number again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view

from melodac.doctor.findings import Measurement
from melodac.tokens.vocabulary import CODEBOOK_SIZE

Line = Mapping[str, Any]
_WORDS = frozenset({"nan", "inf", "-inf"})


class RunLog(NamedTuple):
    """What a run said about itself."""

    train: tuple[Line, ...]
    """Every update, refused ones too."""
    accepted: tuple[Line, ...]
    """Updates that changed a weight."""
    validations: tuple[Line, ...]
    events: tuple[Line, ...]

    def updates(self) -> Int64[np.ndarray, " _"]:
        """Numbers of the accepted updates."""
        return np.array([line["update"] for line in self.accepted], dtype=np.int64)

    def losses(self) -> Float64[np.ndarray, " _"]:
        """Loss of each accepted update, in nats per code."""
        return np.array([line["loss"] for line in self.accepted], dtype=np.float64)

    def num_events(self, event: str) -> int:
        """How often an event of that name was logged."""
        return sum(line.get("event") == event for line in self.events)


def read_run(lines: Sequence[Line]) -> RunLog:
    """Sort the lines of a log by kind; their order stays."""
    read = [
        {key: float(value) if value in _WORDS else value for key, value in line.items()}
        for line in lines
    ]
    train = tuple(line for line in read if line["kind"] == "train")
    return RunLog(
        train,
        tuple(line for line in train if not line.get("is_skipped", False)),
        tuple(line for line in read if line["kind"] == "validation"),
        tuple(line for line in read if line["kind"] == "event"),
    )


def late_window(count: int) -> int:
    """Updates that stand for "now": a tenth of the run, 10 to 200."""
    return int(np.clip(count // 10, 10, 200))


Losses = Float64[np.ndarray, " _"]
MIN_UPDATES = 40
"""Fewer updates have no shape."""
FIRST_UPDATES = 3
SPIKE_SIGMA = 8.0
"""Robust standard deviations where `train.stability.sigma` names none."""
_SPIKE_WINDOW = 31
_BINS = 100
_SIGMA_PER_MAD = 1.4826
"""Of a normal distribution."""


class Curve(NamedTuple):
    """The loss of a run in a few numbers, nats per code; None where there is too little of it."""

    updates: int
    uniform: float
    """Loss of a uniform guess."""
    first: float | None
    lowest: float | None
    """Of the running medians."""
    late: float | None
    """Median of the last tenth."""
    gain: float | None
    """Fall over the last half, by the Theil-Sen slope."""
    best_validation: float | None
    best_update: int | None
    last_validation: float | None


def trace(log: RunLog, config: Mapping[str, Any]) -> Curve:
    """Describe the loss of a run."""
    updates, losses = log.updates(), log.losses()
    has_start = len(updates) >= FIRST_UPDATES and updates[0] <= FIRST_UPDATES
    medians = _running_medians(losses)
    best = min(log.validations, key=lambda line: line["loss"], default=None)
    return Curve(
        updates=len(losses),
        uniform=uniform_nats(config),
        first=float(np.median(losses[:FIRST_UPDATES])) if has_start else None,
        lowest=float(medians.min()) if len(medians) else None,
        late=float(medians[-1]) if len(medians) else None,
        gain=_gain(losses),
        best_validation=None if best is None else best["loss"],
        best_update=None if best is None else best["update"],
        last_validation=log.validations[-1]["loss"] if log.validations else None,
    )


def uniform_nats(config: Mapping[str, Any]) -> float:
    """Loss of a uniform guess over the codes of the run's store."""
    return math.log(config.get("store", {}).get("codebook_size", CODEBOOK_SIZE))


def check_curve(log: RunLog, config: Mapping[str, Any]) -> Iterator[Measurement]:
    """Every check of the loss."""
    losses = log.losses()
    bad = [line["update"] for line in log.accepted if not math.isfinite(line["loss"])]
    yield Measurement("finite_loss", float(len(bad)), f"first at update {bad[0]}" if bad else "")
    curve = trace(log, config)
    yield _initial(curve)
    yield from _shape(curve, config)
    yield _spikes(losses, spike_sigma(config.get("train", {})))
    yield from _validation(log, curve)


def _initial(curve: Curve) -> Measurement:
    if curve.first is None:
        return Measurement("initial_loss", None, f"the log lacks the first {FIRST_UPDATES} updates")
    return Measurement(
        "initial_loss",
        abs(curve.first - curve.uniform),
        f"{curve.first:.3f}, a uniform guess costs {curve.uniform:.3f}",
    )


def _shape(curve: Curve, config: Mapping[str, Any]) -> Iterator[Measurement]:
    warmup = config.get("train", {}).get("warmup_updates", 0)
    if curve.lowest is None or curve.late is None or curve.gain is None:
        why = f"{curve.updates} accepted updates, a shape takes {MIN_UPDATES}"
        yield from (Measurement(check, None, why) for check in ("learned", "divergence", "plateau"))
        return
    yield Measurement("divergence", curve.late - curve.lowest, f"{curve.late:.3f} at the end")
    if curve.updates < 2 * warmup:
        why = f"{curve.updates} updates, of which {warmup} warm up"
        yield from (Measurement(check, None, why) for check in ("learned", "plateau"))
        return
    below = curve.uniform - curve.lowest
    yield Measurement("learned", below, f"lowest {curve.lowest:.3f}, uniform {curve.uniform:.3f}")
    yield Measurement("plateau", curve.gain, f"loss {curve.late:.3f} at update {curve.updates}")


def _validation(log: RunLog, curve: Curve) -> Iterator[Measurement]:
    if curve.best_validation is None or curve.last_validation is None:
        yield Measurement("overfitting", None, "nothing was validated")
        return
    yield Measurement(
        "overfitting",
        curve.last_validation - curve.best_validation,
        f"best {curve.best_validation:.3f} at update {curve.best_update}",
    )
    if curve.late is not None:
        gap = curve.last_validation - curve.late
        yield Measurement(
            "gap", gap, f"train {curve.late:.3f}, held out {curve.last_validation:.3f}"
        )
    last = log.validations[-1]["update"]
    if len(log.validations) < 4:
        why = f"{len(log.validations)} validations, it takes 4"
        yield Measurement("stale_best", None, why)
    else:
        stale = (last - (curve.best_update or 0)) / last
        yield Measurement("stale_best", stale, f"best at update {curve.best_update} of {last}")


def spike_sigma(train: Mapping[str, Any]) -> float:
    """Robust standard deviations from which a loss is a spike: the run's own, if it judges any."""
    return train.get("stability", {}).get("sigma") or SPIKE_SIGMA


def _spikes(losses: Losses, max_sigma: float) -> Measurement:
    finite = losses[np.isfinite(losses)]
    if len(finite) < MIN_UPDATES:
        return Measurement("spikes", None, f"{len(finite)} updates, it takes {MIN_UPDATES}")
    rest = finite - _neighbours(finite)
    sigma = _SIGMA_PER_MAD * float(np.median(np.abs(rest)))
    count = int((rest > max_sigma * sigma).sum()) if sigma else 0
    return Measurement("spikes", count / len(finite), f"{count} of {len(finite)} updates")


def _running_medians(losses: Losses) -> Losses:
    """Medians of windows that end at the end and overlap by half; NaN counts as infinite."""
    if len(losses) < MIN_UPDATES:
        return np.array([])
    size = late_window(len(losses))
    ends = range(len(losses), size - 1, -max(1, size // 2))
    safe = np.where(np.isfinite(losses), losses, np.inf)
    return np.array([np.median(safe[end - size : end]) for end in ends])[::-1]


def _gain(losses: Losses) -> float | None:
    if len(losses) < MIN_UPDATES:
        return None
    half = losses[len(losses) // 2 :]
    bins = np.array([np.median(part) for part in np.array_split(half, min(_BINS, len(half)))])
    finite = np.isfinite(bins)
    if finite.sum() < 2:
        return math.nan
    return -_slope(np.flatnonzero(finite).astype(np.float64), bins[finite]) * (len(bins) - 1)


def _neighbours(losses: Losses) -> Losses:
    """Median of the losses around each, itself included."""
    padded = np.pad(losses, _SPIKE_WINDOW // 2, mode="reflect")
    return np.median(sliding_window_view(padded, _SPIKE_WINDOW), axis=1)


def _slope(places: Losses, values: Losses) -> float:
    """Theil-Sen slope: the median over all pairs of points (Sen 1968), which outliers leave be."""
    one, other = np.triu_indices(len(values), k=1)
    slopes = (values[other] - values[one]) / (places[other] - places[one])
    return float(np.median(slopes))


REASONS_SHOWN = 3
_RELATIVE = 1e-6
"""Rates are equal within this: a log holds them as they were used, in float64."""


def check_rates(log: RunLog, config: Mapping[str, Any]) -> Iterator[Measurement]:
    """Every check of how fast and how steadily a run went."""
    train: Mapping[str, Any] = config.get("train", {})
    yield _order(log)
    yield from _learning_rate(log, train)
    yield _norm_growth(log, train)
    if not log.train:
        yield from (Measurement(check, None, "no update is logged") for check in ("clips", "skips"))
    else:
        late = log.accepted[-late_window(len(log.accepted)) :]
        clipped = [bool(line["is_clipped"]) for line in late if "is_clipped" in line]
        share = sum(clipped) / len(clipped) if clipped else None
        yield Measurement(
            "clips", share, f"last {len(clipped)} updates" if clipped else "not logged"
        )
        yield _skips(log)
    yield _events("rollbacks", [line for line in log.events if line.get("event") == "rollback"])
    alarms = {"alarm", "collapse"}
    yield _events("alarms", [line for line in log.events if line.get("event") in alarms])


def _order(log: RunLog) -> Measurement:
    numbers = [line["update"] for line in log.train]
    wrong = [after for before, after in pairwise(numbers) if after != before + 1]
    where = f"first at update {wrong[0]}" if wrong else ""
    return Measurement("log_order", float(len(wrong)), where)


def _learning_rate(log: RunLog, train: Mapping[str, Any]) -> Iterator[Measurement]:
    warmup, updates = train.get("warmup_updates"), train.get("updates")
    if warmup is None or not updates:
        yield Measurement("warmup", None, "the checkpoint does not say")
        return
    yield Measurement("warmup", warmup / updates, f"{warmup} of {updates} updates")
    after = [line for line in log.train if line["update"] >= max(warmup, 1)]
    if not after:
        yield Measurement("peak_rate", None, "the warm-up is not over")
        return
    highest, peak = max(line["learning_rate"] for line in log.train), train["learning_rate"]
    ratio = train.get("stability", {}).get("rollback_learning_rate_ratio", 1.0)
    least = peak * ratio ** log.num_events("rollback")  # a run that went back may never reach more
    off = max(highest / peak, least / highest) - 1.0 if highest > 0.0 else math.inf
    yield Measurement("peak_rate", max(off, 0.0), f"{highest:.3g} of {peak:.3g}")
    risen = [
        two["update"]
        for one, two in pairwise(after)
        if two["learning_rate"] > one["learning_rate"] * (1 + _RELATIVE)
    ]
    where = f"first at update {risen[0]}" if risen else ""
    yield Measurement("rate_rises", float(len(risen)), where)


def _norm_growth(log: RunLog, train: Mapping[str, Any]) -> Measurement:
    norms = np.array(
        [
            line["grad_norm"]
            for line in log.accepted
            if "grad_norm" in line and line["update"] > train.get("warmup_updates", 0)
        ],
        dtype=np.float64,
    )
    size = late_window(len(norms))
    if len(norms) < 4 * size:
        return Measurement("norm_growth", None, f"{len(norms)} updates after the warm-up")
    early, late = float(np.median(norms[:size])), float(np.median(norms[-size:]))
    growth = late / early if early else math.inf
    return Measurement(
        "norm_growth", growth, f"{early:.3g} after the warm-up, {late:.3g} at the end"
    )


def _skips(log: RunLog) -> Measurement:
    refused = {line["update"] for line in log.train if line.get("is_skipped", False)}
    refused |= {line["update"] for line in log.events if line.get("event") == "skip"}
    reasons = [str(line.get("reason", "")) for line in log.events if line.get("event") == "skip"]
    known = {line["update"] for line in log.train} | refused
    detail = f"{len(refused)} of {len(known)} updates"
    return Measurement("skips", len(refused) / len(known), "; ".join([detail, *_first(reasons)]))


def _events(check: str, lines: Sequence[Line]) -> Measurement:
    said = [f"update {line['update']}: {line.get('reason', 'no reason')}" for line in lines]
    return Measurement(check, float(len(lines)), "; ".join(_first(said)))


def _first(texts: Sequence[str]) -> list[str]:
    return list(texts[:REASONS_SHOWN])
