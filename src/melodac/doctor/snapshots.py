"""Measurements of checkpoints: weights, their average, optimizer state.

Checkpoints are taken in the order of their update numbers, whatever their folders are called, and
at most two are in memory. Raw and averaged weights never meet in one number except as their
distance.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from melodac.models.code_tables import FIXED_TENSORS
from melodac.training.checkpoint import Checkpoint

Tensors = Mapping[str, Tensor]
OPTIMIZER = "optimizer"
MODEL = "model"
AVERAGE = "ema"


class ModuleSizes(NamedTuple):
    """Size and movement of the weights of one module, or of the whole model."""

    module: str
    parameters: int
    norm: float
    rms: float
    largest: float
    """Greatest absolute value."""
    moved: float | None
    """Distance from the previous checkpoint as a share of the norm there; None for the first."""
    drift: float | None
    """Distance of the averaged from the raw weights as a share of the norm of the raw ones."""


class Moments(NamedTuple):
    """One kind of optimizer state, e.g. exp_avg_sq, over all parameters."""

    kind: str
    mean: float
    """Mean absolute value."""
    largest: float
    total: float
    """Sum of the values."""
    zero_frac: float
    dead: tuple[str, ...]
    """Parameters whose values are all zero."""


class Snapshot(NamedTuple):
    """Measurements of one checkpoint."""

    update: int
    whole: ModuleSizes
    parts: tuple[ModuleSizes, ...]
    largest_step: Mapping[str, float]
    """Greatest absolute movement of each tensor since the previous checkpoint."""
    nonfinite: tuple[str, ...]
    """Every tensor with NaN or infinity, and how many."""
    moments: tuple[Moments, ...]
    """Empty for a checkpoint of weights alone."""


class _Weights(NamedTuple):
    """Weights of one checkpoint, and those they are compared with."""

    raw: Tensors
    before: Tensors | None
    average: Tensors | None


def measure(checkpoints: Sequence[Checkpoint]) -> list[Snapshot]:
    """Measure checkpoints of one run in the order of their updates.

    Of two with the same update the one with the optimizer state is taken.
    """
    chosen: dict[int, Checkpoint] = {}
    for checkpoint in checkpoints:
        present = chosen.get(checkpoint.update)
        if present is None or not _has(present, OPTIMIZER):
            chosen[checkpoint.update] = checkpoint
    snapshots: list[Snapshot] = []
    before: Tensors | None = None
    for update in sorted(chosen):
        raw = _read(chosen[update], MODEL)
        snapshots.append(_measure(chosen[update], raw, before))
        before = raw
    return snapshots


def _measure(checkpoint: Checkpoint, raw: Tensors, before: Tensors | None) -> Snapshot:
    average = _read(checkpoint, AVERAGE) if _has(checkpoint, AVERAGE) else None
    state: Tensors = _read(checkpoint, OPTIMIZER) if _has(checkpoint, OPTIMIZER) else {}
    weights = _Weights(raw, before, average)
    groups = {MODEL: raw, AVERAGE: average or {}, OPTIMIZER: state}
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        kind, _, parameter = name.partition("/")
        if tensor.dim():  # a count of steps has no size
            kinds.setdefault(kind, {})[parameter] = tensor
    return Snapshot(
        checkpoint.update,
        _part("whole", list(raw), weights),
        tuple(_part(name, names, weights) for name, names in _modules(raw).items()),
        {
            name: float((weight - before[name]).abs().max())
            for name, weight in raw.items()
            if name in before and weight.numel()
        }
        if before is not None
        else {},
        tuple(line for name, tensors in groups.items() for line in _nonfinite(name, tensors)),
        tuple(_summarise_moments(kind, tensors) for kind, tensors in kinds.items()),
    )


def _has(checkpoint: Checkpoint, name: str) -> bool:
    return f"{name}.safetensors" in checkpoint.files


def _read(checkpoint: Checkpoint, name: str) -> Tensors:
    """Read tensors without the codec's vectors, which stand still in every run."""
    tensors = checkpoint.read_tensors(name)
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
    norm = _norm(raw[name] for name in names)
    moved = drift = None
    # weights that are all zero are as far as they moved: their norm counts as 1
    if before is not None:
        known = [name for name in names if name in before]
        moved = _norm(raw[n] - before[n] for n in known) / (_norm(before[n] for n in known) or 1.0)
    if average is not None:
        drift = _norm(average[n] - raw[n] for n in names if n in average) / (norm or 1.0)
    largest = max(float(raw[name].abs().max()) for name in names if raw[name].numel())
    return ModuleSizes(module, size, norm, norm / math.sqrt(max(size, 1)), largest, moved, drift)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.hypot(*(float(tensor.double().square().sum().sqrt()) for tensor in tensors))


def _nonfinite(file: str, tensors: Tensors) -> Iterator[str]:
    for name, tensor in tensors.items():
        num_nan, num_inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        if num_nan or num_inf:
            yield f"{file}/{name}: {num_nan} NaN, {num_inf} infinite of {tensor.numel()}"


def _summarise_moments(kind: str, tensors: Tensors) -> Moments:
    values = tensors.values()
    count = max(sum(tensor.numel() for tensor in values), 1)
    return Moments(
        kind,
        sum(float(tensor.double().abs().sum()) for tensor in values) / count,
        max(float(tensor.abs().max()) for tensor in values),
        sum(float(tensor.double().sum()) for tensor in values),
        sum(int((tensor == 0).sum()) for tensor in values) / count,
        tuple(name for name, tensor in tensors.items() if not bool(tensor.any())),
    )
