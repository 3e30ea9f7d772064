"""Checks of the learning rate, the gradient norm, and what was clipped, skipped or taken back."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from melodac.training.doctor.findings import Measured
from melodac.training.doctor.run_log import Line, RunLog, late_window

REASONS_SHOWN = 3
_RELATIVE = 1e-6
"""Rates are equal within this: a log holds them as they were used, in float64."""


def check_rates(log: RunLog, config: Mapping[str, Any]) -> Iterator[Measured]:
    """Every check of how fast and how steadily a run went."""
    train: Mapping[str, Any] = config.get("train", {})
    yield _order(log)
    yield from _learning_rate(log, train)
    yield _norm_growth(log, train)
    if not log.train:
        yield from (Measured(check, None, "no update is logged") for check in ("clips", "skips"))
    else:
        late = log.accepted[-late_window(len(log.accepted)) :]
        clipped = [bool(line["is_clipped"]) for line in late if "is_clipped" in line]
        share = sum(clipped) / len(clipped) if clipped else None
        yield Measured("clips", share, f"last {len(clipped)} updates" if clipped else "not logged")
        yield _skips(log)
    yield _events("rollbacks", [line for line in log.events if line.get("event") == "rollback"])
    alarms = {"alarm", "collapse"}
    yield _events("alarms", [line for line in log.events if line.get("event") in alarms])


def _order(log: RunLog) -> Measured:
    numbers = [line["update"] for line in log.train]
    wrong = [after for before, after in pairwise(numbers) if after != before + 1]
    where = f"first at update {wrong[0]}" if wrong else ""
    return Measured("log_order", float(len(wrong)), where)


def _learning_rate(log: RunLog, train: Mapping[str, Any]) -> Iterator[Measured]:
    warmup, updates = train.get("warmup_updates"), train.get("updates")
    if warmup is None or not updates:
        yield Measured("warmup", None, "the checkpoint does not say")
        return
    yield Measured("warmup", warmup / updates, f"{warmup} of {updates} updates")
    after = [line for line in log.train if line["update"] >= max(warmup, 1)]
    if not after:
        yield Measured("peak_rate", None, "the warm-up is not over")
        return
    highest, peak = max(line["learning_rate"] for line in log.train), train["learning_rate"]
    ratio = train.get("stability", {}).get("rollback_learning_rate_ratio", 1.0)
    least = peak * ratio ** log.num_events("rollback")  # a run that went back may never reach more
    off = max(highest / peak, least / highest) - 1.0 if highest > 0.0 else math.inf
    yield Measured("peak_rate", max(off, 0.0), f"{highest:.3g} of {peak:.3g}")
    risen = [
        two["update"]
        for one, two in pairwise(after)
        if two["learning_rate"] > one["learning_rate"] * (1 + _RELATIVE)
    ]
    where = f"first at update {risen[0]}" if risen else ""
    yield Measured("rate_rises", float(len(risen)), where)


def _norm_growth(log: RunLog, train: Mapping[str, Any]) -> Measured:
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
        return Measured("norm_growth", None, f"{len(norms)} updates after the warm-up")
    early, late = float(np.median(norms[:size])), float(np.median(norms[-size:]))
    growth = late / early if early else math.inf
    return Measured("norm_growth", growth, f"{early:.3g} after the warm-up, {late:.3g} at the end")


def _skips(log: RunLog) -> Measured:
    refused = {line["update"] for line in log.train if line.get("is_skipped", False)}
    refused |= {line["update"] for line in log.events if line.get("event") == "skip"}
    reasons = [str(line.get("reason", "")) for line in log.events if line.get("event") == "skip"]
    known = {line["update"] for line in log.train} | refused
    detail = f"{len(refused)} of {len(known)} updates"
    return Measured("skips", len(refused) / len(known), "; ".join([detail, *_first(reasons)]))


def _events(check: str, lines: Sequence[Line]) -> Measured:
    said = [f"update {line['update']}: {line.get('reason', 'no reason')}" for line in lines]
    return Measured(check, float(len(lines)), "; ".join(_first(said)))


def _first(texts: Sequence[str]) -> list[str]:
    return list(texts[:REASONS_SHOWN])
