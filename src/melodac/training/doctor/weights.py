"""Checks of what checkpoints hold: weights, their average, optimizer state."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from melodac.training.doctor.findings import Measured, some
from melodac.training.doctor.run_log import RunLog
from melodac.training.doctor.snapshots import Moments, Snapshot

_SQUARES = "exp_avg_sq"


def check_weights(
    snapshots: Sequence[Snapshot], config: Mapping[str, Any], log: RunLog
) -> Iterator[Measured]:
    """Every check of weights and moments; `snapshots` in the order of their updates."""
    train: Mapping[str, Any] = config.get("train", {})
    newest = snapshots[-1]
    bad = [f"update {shot.update}: {line}" for shot in snapshots for line in shot.nonfinite]
    yield Measured("finite", float(len(bad)), some(bad))
    widest = max(newest.parts, key=lambda part: part.rms)
    yield Measured("weight_size", widest.rms, f"{widest.module} at update {newest.update}")
    yield _frozen(snapshots)
    yield _reach(snapshots, train, log)
    if not newest.update:
        why = "nothing was trained yet"
        for check in ("average_drift", "average_idle", "moments", "dead_parameters"):
            yield Measured(check, None, why)
        return
    yield from _average(newest, train)
    yield from _moments(snapshots, train)


def adam_reach(updates: int, *, beta1: float, beta2: float) -> float:
    """How far AdamW without decay can move a weight, in learning rates; an upper bound.

    By Cauchy and Schwarz |m| <= (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) sqrt(v); in the first
    updates the bias corrections bring that to 1.

    Args:
        updates: Updates between two checkpoints.
        beta1: Memory of the mean gradient.
        beta2: Memory of the squared gradient.

    Source:
        Kingma and Ba 2015, section 2.1, made exact for beta1^2 < beta2.
    """
    if beta1**2 >= beta2:
        return math.inf
    one = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return updates * max(1.0, one)


def _frozen(snapshots: Sequence[Snapshot]) -> Measured:
    if len(snapshots) < 2:
        return Measured("frozen", None, "needs two checkpoints")
    steps = snapshots[-1].largest_step
    still = [name for name, step in steps.items() if step == 0.0]
    return Measured("frozen", float(len(still)), some(still))


def _reach(snapshots: Sequence[Snapshot], train: Mapping[str, Any], log: RunLog) -> Measured:
    if len(snapshots) < 2:
        return Measured("reach", None, "needs two checkpoints")
    if train.get("optimizer", "adamw") != "adamw" or not {"beta1", "beta2"} <= train.keys():
        return Measured("reach", None, "the bound is that of AdamW")
    if log.num_events("rollback"):
        return Measured("reach", None, "a rollback lies between the checkpoints")
    worst, where = 0.0, ""
    for before, after in pairwise(snapshots):
        lines = [n for n in log.accepted if before.update < n["update"] <= after.update]
        rate = max((n["learning_rate"] for n in lines), default=train["learning_rate"])
        updates = after.update - before.update
        reach = rate * adam_reach(updates, beta1=train["beta1"], beta2=train["beta2"])
        # decay pulls by at most rate * decay * |weight| each time
        reach += rate * updates * train.get("weight_decay", 0.0) * _largest(before, after)
        for name, step in after.largest_step.items():
            if not step / reach <= worst:
                worst = step / reach
                where = f"{name}, update {before.update} to {after.update}"
    return Measured("reach", worst, where)


def _largest(before: Snapshot, after: Snapshot) -> float:
    return max(before.whole.largest, after.whole.largest)


def _average(newest: Snapshot, train: Mapping[str, Any]) -> Iterator[Measured]:
    drift, decay = newest.whole.drift, train.get("ema_decay")
    if drift is None:
        yield Measured("average_drift", None, "the checkpoint holds no averaged weights")
        return
    far = max(newest.parts, key=lambda part: part.drift or 0.0)
    yield Measured("average_drift", drift, f"most in {far.module}: {far.drift or 0.0:.3g}")
    if decay:
        yield Measured("average_idle", float(drift == 0.0), f"train.ema_decay {decay:g}")


def _moments(snapshots: Sequence[Snapshot], train: Mapping[str, Any]) -> Iterator[Measured]:
    with_state = [shot for shot in snapshots if shot.moments]
    if not with_state:
        yield Measured("moments", None, "no optimizer state is kept: only weights were left")
        return
    newest = with_state[-1]
    squares = [kind for kind in newest.moments if kind.kind == _SQUARES]
    clip = train.get("clip_norm")
    if squares and clip:
        yield Measured("moments", squares[0].total / clip**2, f"update {newest.update}")
    else:
        yield Measured("moments", None, "no squared gradients or no clipping norm")
    yield _dead(newest.moments)


def _dead(moments: Sequence[Moments]) -> Measured:
    # the mean gradient of a parameter may cancel, its square only if there never was one
    telling = [kind for kind in moments if kind.kind == _SQUARES] or list(moments)
    dead = sorted({name for kind in telling for name in kind.dead})
    return Measured("dead_parameters", float(len(dead)), some(dead))
