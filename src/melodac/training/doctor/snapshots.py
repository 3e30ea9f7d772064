"""What stands in a checkpoint: sizes and movements of the weights, drift of their average, moments.

Checkpoints are taken in the order of their update numbers, whatever their folders are called, and
two at most are in memory. Raw and averaged weights never meet in one number except as their
distance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from melodac.models.code_tables import FIXED_TENSORS
from melodac.training.checkpoint import Checkpoint

Tensors = Mapping[str, Tensor]
OPTIMIZER = "optimizer"
MODEL = "model"
AVERAGE = "ema"


class Part(NamedTuple):
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
    whole: Part
    parts: tuple[Part, ...]
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
            tuple(_moments(kind, tensors) for kind, tensors in _kinds(state).items()),
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


def _part(module: str, names: list[str], weights: _Weights) -> Part:
    raw, before, average = weights
    size = sum(raw[name].numel() for name in names)
    norm = _norm(raw, names)
    return Part(
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


def _moments(kind: str, tensors: Tensors) -> Moments:
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
