"""Gradients of the first update, module by module: of the real run beside the gate's.

A module that no gradient reaches never learns, whatever the loss does. Both are taken from the same
fresh weights, the real one with its regularisers.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.training.compute import Compute
from melodac.training.config import TrainConfig
from melodac.training.distributed import Ranks
from melodac.training.gradients import GradientTaker
from melodac.training.module_norms import gradient_norms
from melodac.training.update import TrainingData, UpdateInput, UpdateReader

_UPDATES_SEARCHED = 20
"""Updates among which one is looked for that reads a text: each item's may be dropped."""

_TEXT = "text_encoder"


class FirstGradients(NamedTuple):
    """Of one update from fresh weights."""

    norms: dict[str, float]
    """Norm of each module's gradients, before clipping."""
    has_text: bool
    """Whether any item had a text to read."""

    def silent(self) -> list[str]:
        """Modules that no gradient reached though they had something to read."""
        return [
            module
            for module, norm in self.norms.items()
            if norm == 0 and (self.has_text or not module.startswith(_TEXT))
        ]


class ModuleGradients(NamedTuple):
    """One module of the comparison."""

    module: str
    real: float
    """Gradient norm in an update of the real run."""
    overfit: float
    """The same in an update of the gate."""
    ratio: float | None
    """Share of the whole gradient in the real update over that in the gate's; None for one that
    the gate's does not reach."""


def take_first_gradients(
    model: LanguageModel, pattern: DelayPattern, data: TrainingData, config: TrainConfig
) -> FirstGradients:
    """Read one update, run it forward and backward, change nothing.

    Args:
        model: Fresh; its gradients are none afterwards.
        pattern: Delay pattern of the codes.
        data: What is learned from.
        config: The run whose update it is, its dropout included.
    """
    device = next(model.parameters()).device
    ranks, compute = Ranks.current(), Compute(config.compute, device)
    text_bytes = model.config.text_bytes
    reader = UpdateReader(data, pattern, config, text_bytes=text_bytes, ranks=ranks, device=device)
    taker = GradientTaker(model, config, ranks=ranks, compute=compute)
    update, read = _choose_update(
        reader, min(config.updates, _UPDATES_SEARCHED if text_bytes else 1)
    )
    model.zero_grad()
    with compute.active(), _dropout(model, config.dropout):
        taker.take(update, read)
    norms = gradient_norms(model)
    model.zero_grad()
    return FirstGradients(norms, _has_text(read))


def compare_gradients(real: FirstGradients, overfit: FirstGradients) -> list[ModuleGradients]:
    """Both updates, module by module."""
    whole, other_whole = (math.hypot(*found.norms.values()) for found in (real, overfit))
    return [
        ModuleGradients(
            module,
            norm,
            overfit.norms[module],
            norm * other_whole / (overfit.norms[module] * whole)
            if overfit.norms[module] and whole
            else None,
        )
        for module, norm in real.norms.items()
    ]


def silent_modules(real: FirstGradients, overfit: FirstGradients) -> list[str]:
    """One sentence for each module that an update does not teach."""
    return [
        f"{module} receives no gradient from an update of {run}: look at what reads it"
        for run, found in (("the real run", real), ("the gate", overfit))
        for module in found.silent()
    ]


def _choose_update(reader: UpdateReader, last: int) -> tuple[int, UpdateInput]:
    """The first update with a text, or the very first if none has one."""
    first = reader.read(1)
    later = ((update, reader.read(update)) for update in range(2, last + 1))
    if _has_text(first):
        return 1, first
    return next(((update, read) for update, read in later if _has_text(read)), (1, first))


def _has_text(read: UpdateInput) -> bool:
    conditions = [part.condition for part in read.parts]
    return any(
        condition is not None and not bool(condition.is_null.all()) for condition in conditions
    )


@contextmanager
def _dropout(model: nn.Module, share: float) -> Generator[None]:
    """The model with another dropout than it was built with, for a with-block."""
    modules: Sequence[nn.Dropout] = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    before = [module.p for module in modules]
    for module in modules:
        module.p = share
    try:
        yield
    finally:
        for module, given in zip(modules, before, strict=True):
            module.p = given
