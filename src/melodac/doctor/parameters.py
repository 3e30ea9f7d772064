"""What stands in a checkpoint and checks of it: weights, their average, optimizer state.

Checkpoints are taken in the order of their update numbers, whatever their folders are called, and
two at most are in memory. Raw and averaged weights never meet in one number except as their
distance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from melodac.doctor.findings import Measurement, list_first
from melodac.doctor.run_curves import RunLog
from melodac.models.code_tables import FIXED_TENSORS
from melodac.training.checkpoint import Checkpoint

Tensors = Mapping[str, Tensor]
OPTIMIZER = "optimizer"
MODEL = "model"
AVERAGE = "ema"


class ModuleSizes(NamedTuple):
    """Weights of one module, or of the whole model."""

    module: str
    parameters: int
    norm: float
    rms: float
    largest: float
    """Greatest absolute value."""
    moved: float | None
    """Distance from the checkpoint before, beside the size there; None for the first."""
    drift: float | None
    """Distance of the averaged weights from the raw ones, beside the size of the raw ones."""


class Moments(NamedTuple):
    """One kind of optimizer state, e.g. exp_avg_sq, over all parameters."""

    kind: str
    mean: float
    """Of the absolute values."""
    largest: float
    total: float
    """Sum of the values."""
    zero_frac: float
    dead: tuple[str, ...]
    """Parameters whose values are all zero."""


class Snapshot(NamedTuple):
    """One checkpoint, measured."""

    update: int
    whole: ModuleSizes
    parts: tuple[ModuleSizes, ...]
    largest_step: Mapping[str, float]
    """For each tensor the greatest absolute movement since the checkpoint before."""
    nonfinite: tuple[str, ...]
    """Every tensor with NaN or infinity, and how many."""
    moments: tuple[Moments, ...]
    """Empty for a checkpoint of weights alone."""


class _Weights(NamedTuple):
    """Those of one checkpoint, and those they are compared with."""

    raw: Tensors
    before: Tensors | None
    average: Tensors | None


def measure(checkpoints: Sequence[Checkpoint]) -> list[Snapshot]:
    """Measure checkpoints of one run in the order of their updates.

    Of two with the same update the one with the optimizer's state is taken.
    """
    chosen: dict[int, Checkpoint] = {}
    for checkpoint in checkpoints:
        present = chosen.get(checkpoint.update)
        if present is None or not _has(present, OPTIMIZER):
            chosen[checkpoint.update] = checkpoint
    return list(_measure([chosen[update] for update in sorted(chosen)]))


def _measure(checkpoints: Sequence[Checkpoint]) -> Iterator[Snapshot]:
    before: Tensors | None = None
    for checkpoint in checkpoints:
        raw = _trained(checkpoint.read_tensors(MODEL))
        average = _trained(checkpoint.read_tensors(AVERAGE)) if _has(checkpoint, AVERAGE) else None
        state = checkpoint.read_tensors(OPTIMIZER) if _has(checkpoint, OPTIMIZER) else {}
        weights = _Weights(raw, before, average)
        groups = {MODEL: raw, AVERAGE: average or {}, OPTIMIZER: state}
        yield Snapshot(
            checkpoint.update,
            _part("whole", list(raw), weights),
            tuple(_part(module, names, weights) for module, names in _modules(raw).items()),
            {} if before is None else _largest_steps(raw, before),
            tuple(line for name, tensors in groups.items() for line in _nonfinite(name, tensors)),
            tuple(_summarise_moments(kind, tensors) for kind, tensors in _kinds(state).items()),
        )
        before = raw


def _has(checkpoint: Checkpoint, name: str) -> bool:
    return f"{name}.safetensors" in checkpoint.files


def _trained(tensors: Tensors) -> Tensors:
    """Weights without the codec's vectors, which stand still in every run."""
    return {name: tensor for name, tensor in tensors.items() if name not in FIXED_TENSORS}


def _modules(tensors: Tensors) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for name in tensors:
        words = name.split(".")
        # a block has a row for attention and one for feed-forward, each with its norm
        depth = 3 if words[0] == "blocks" and len(words) > 3 else 1
        module = ".".join(words[:depth]).removesuffix("_norm")
        modules.setdefault(module, []).append(name)
    return modules


def _part(module: str, names: list[str], weights: _Weights) -> ModuleSizes:
    raw, before, average = weights
    size = sum(raw[name].numel() for name in names)
    norm = _norm(raw, names)
    return ModuleSizes(
        module,
        size,
        norm,
        norm / math.sqrt(max(size, 1)),
        max(float(raw[name].abs().max()) for name in names if raw[name].numel()),
        None if before is None else _distance(names, raw, before) / _size(_norm(before, names)),
        None if average is None else _distance(names, average, raw) / _size(norm),
    )


def _distance(names: list[str], one: Tensors, other: Tensors) -> float:
    shared = [name for name in names if name in one and name in other]
    return math.hypot(*(_length(one[name] - other[name]) for name in shared))


def _norm(tensors: Tensors, names: list[str]) -> float:
    return math.hypot(*(_length(tensors[name]) for name in names if name in tensors))


def _size(norm: float) -> float:
    """What a distance is divided by; weights that are all zero are as far as they moved."""
    return norm or 1.0


def _largest_steps(raw: Tensors, before: Tensors) -> dict[str, float]:
    return {
        name: float((weight - before[name]).abs().max())
        for name, weight in raw.items()
        if name in before and weight.numel()
    }


def _nonfinite(file: str, tensors: Tensors) -> Iterator[str]:
    for name, tensor in tensors.items():
        num_nan, num_inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        if num_nan or num_inf:
            yield f"{file}/{name}: {num_nan} NaN, {num_inf} infinite of {tensor.numel()}"


def _kinds(state: Tensors) -> dict[str, dict[str, Tensor]]:
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        kind, _, parameter = name.partition("/")
        if tensor.dim():  # a count of steps has no size
            kinds.setdefault(kind, {})[parameter] = tensor
    return kinds


def _summarise_moments(kind: str, tensors: Tensors) -> Moments:
    count = sum(tensor.numel() for tensor in tensors.values())
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors.values())
    return Moments(
        kind,
        sum(float(tensor.double().abs().sum()) for tensor in tensors.values()) / max(count, 1),
        max(float(tensor.abs().max()) for tensor in tensors.values()),
        sum(float(tensor.double().sum()) for tensor in tensors.values()),
        zeros / max(count, 1),
        tuple(name for name, tensor in tensors.items() if not bool(tensor.any())),
    )


def _length(tensor: Tensor) -> float:
    return float(tensor.double().square().sum().sqrt())


_SQUARES = "exp_avg_sq"


def check_weights(
    snapshots: Sequence[Snapshot], config: Mapping[str, Any], log: RunLog
) -> Iterator[Measurement]:
    """Every check of weights and moments; `snapshots` in the order of their updates."""
    train: Mapping[str, Any] = config.get("train", {})
    newest = snapshots[-1]
    bad = [f"update {shot.update}: {line}" for shot in snapshots for line in shot.nonfinite]
    yield Measurement("finite", float(len(bad)), list_first(bad))
    widest = max(newest.parts, key=lambda part: part.rms)
    yield Measurement("weight_size", widest.rms, f"{widest.module} at update {newest.update}")
    yield _frozen(snapshots)
    yield _reach(snapshots, train, log)
    if not newest.update:
        why = "nothing was trained yet"
        for check in ("average_drift", "average_idle", "moments", "dead_parameters"):
            yield Measurement(check, None, why)
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


def _frozen(snapshots: Sequence[Snapshot]) -> Measurement:
    if len(snapshots) < 2:
        return Measurement("frozen", None, "needs two checkpoints")
    steps = snapshots[-1].largest_step
    still = [name for name, step in steps.items() if step == 0.0]
    return Measurement("frozen", float(len(still)), list_first(still))


def _reach(snapshots: Sequence[Snapshot], train: Mapping[str, Any], log: RunLog) -> Measurement:
    if len(snapshots) < 2:
        return Measurement("reach", None, "needs two checkpoints")
    if train.get("optimizer", "adamw") != "adamw" or not {"beta1", "beta2"} <= train.keys():
        return Measurement("reach", None, "the bound is that of AdamW")
    if log.num_events("rollback"):
        return Measurement("reach", None, "a rollback lies between the checkpoints")
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
    return Measurement("reach", worst, where)


def _largest(before: Snapshot, after: Snapshot) -> float:
    return max(before.whole.largest, after.whole.largest)


def _average(newest: Snapshot, train: Mapping[str, Any]) -> Iterator[Measurement]:
    drift, decay = newest.whole.drift, train.get("ema_decay")
    if drift is None:
        yield Measurement("average_drift", None, "the checkpoint holds no averaged weights")
        return
    far = max(newest.parts, key=lambda part: part.drift or 0.0)
    yield Measurement("average_drift", drift, f"most in {far.module}: {far.drift or 0.0:.3g}")
    if decay:
        yield Measurement("average_idle", float(drift == 0.0), f"train.ema_decay {decay:g}")


def _moments(snapshots: Sequence[Snapshot], train: Mapping[str, Any]) -> Iterator[Measurement]:
    with_state = [shot for shot in snapshots if shot.moments]
    if not with_state:
        yield Measurement("moments", None, "no optimizer state is kept: only weights were left")
        return
    newest = with_state[-1]
    squares = [kind for kind in newest.moments if kind.kind == _SQUARES]
    clip = train.get("clip_norm")
    if squares and clip:
        yield Measurement("moments", squares[0].total / clip**2, f"update {newest.update}")
    else:
        yield Measurement("moments", None, "no squared gradients or no clipping norm")
    yield _dead(newest.moments)


def _dead(moments: Sequence[Moments]) -> Measurement:
    # the mean gradient of a parameter may cancel, its square only if there never was one
    telling = [kind for kind in moments if kind.kind == _SQUARES] or list(moments)
    dead = sorted({name for kind in telling for name in kind.dead})
    return Measurement("dead_parameters", float(len(dead)), list_first(dead))
