"""What the overfit gate found, whether that is enough, and what to change if it is not.

Gradients of the first update are compared module by module, the real run's with the gate's: both
are taken from the same fresh weights, the real one with its regularisers. A module that no gradient
reaches never learns, whatever the loss does.
"""

import math
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from melodac.models.language_model import LanguageModel
from melodac.overfit.free_runs import Departure, FreeRuns
from melodac.tokens.delay import DelayPattern
from melodac.training.compute import Compute
from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.data import TrainingData, UpdateInput, UpdateReader
from melodac.training.distributed import Ranks
from melodac.training.events import Event
from melodac.training.guards.model_probe import gradient_norms
from melodac.training.step import GradientAccumulator

_UPDATES_SEARCHED = 20
"""Updates among which one is looked for that reads a text: each item's may be dropped."""

_TEXT = re.compile(r"text_encoder|cross_attention_norm")
"""What only a text teaches: where all keys are the null vector, no query changes anything."""


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
            if norm == 0 and (self.has_text or not _TEXT.search(module))
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
    taker = GradientAccumulator(model, config, ranks=ranks, compute=compute)
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


CONSTANT_MARGIN = 0.5
"""Share of the constant predictor's nats that a memorised codebook must stay below."""

_SMALL_NATS = 0.05
"""Nats per code that are good enough whatever the constant predictor has, which is 0 for a codebook
that holds one code."""

_STILL_FALLING = 0.003
"""Share of the loss by which the last tenth of the updates must be below the tenth before."""

_STEADY = 0.75
"""Share of updates that lower a loss which falls slowly but surely; one that jumps has a half."""

_PATIENCE = 4.0
"""Times the gate's updates that it is worth waiting for; beyond that the rate is too small."""


@dataclass(frozen=True)
class OverfitReport:
    """What the gate found; accuracies are shares of the cells after the prefix.

    One window must come back from nothing, so there teacher forcing is judged on all of its cells.
    """

    updates: int
    """Updates taken."""
    windows: tuple[str, ...]
    """Track and first frame of each window."""
    window_frames: int
    prefix_frames: int
    """Frames of each window that a free run is given."""
    notes: tuple[str, ...]
    """One sentence for each of these that is not what was asked for."""
    loss: float
    """Nats per code in the last update."""
    loss_curve: tuple[tuple[int, float], ...]
    """Some updates and their nats per code."""
    teacher_forced_accuracy: float
    """Share of most likely codes that are right when the past is the truth."""
    nats_per_codebook: tuple[float, ...]
    """Of the trained model, the past being the truth."""
    constant_nats_per_codebook: tuple[float, ...]
    """Of the best predictor that never looks: the frequencies of these very codes."""
    free_runs: FreeRuns
    """What comes back when the past is what the model said itself."""
    gradients: tuple[ModuleGradients, ...]
    """Of the first update of the real run and of the gate."""
    audit: dict[str, float]
    """Numbers of the fresh model."""
    problems: tuple[str, ...]
    """What is not as it must be, a plain sentence each; none if the real run may begin."""
    cause: str
    """Why that is so and what to do, in one sentence; empty if the real run may begin."""

    @property
    def is_passed(self) -> bool:
        """Whether the real run may begin."""
        return not self.problems

    @property
    def free_run_accuracy(self) -> float:
        """Share of right cells in the greedy continuation of the prefix."""
        per_codebook = self.free_runs.continued_per_codebook
        return sum(per_codebook) / len(per_codebook)


def find_free_run_faults(runs: FreeRuns, config: OverfitConfig) -> list[str]:
    """Sentences about free runs that are not the memorised windows."""
    found: list[str] = []
    share = runs.continued[config.prefix_frames]
    if share < config.min_accuracy:
        found.append(
            f"continued freely from {config.prefix_frames} frames, {share:.1%} of the cells are "
            f"right, {config.min_accuracy:.1%} are asked for"
        )
    # of several windows nothing says which one is to be played
    if config.windows == 1 and runs.from_nothing < config.min_accuracy:
        found.append(
            f"played freely from nothing, {runs.from_nothing:.1%} of the cells are right, "
            f"{config.min_accuracy:.1%} are asked for"
        )
    return found


def find_constant_codebooks(
    nats: Sequence[float],
    constant_nats: Sequence[float],
    accuracies: Sequence[float],
    config: OverfitConfig,
) -> tuple[str, ...]:
    """Find codebooks that are hardly better predicted than by never looking, a sentence each.

    Args:
        nats: Nats per code of each codebook.
        constant_nats: Those of a predictor that knows frequencies alone.
        accuracies: Shares of right cells in free runs: a codebook that comes back is learned,
            however few nats there were to win.
        config: The gate.
    """
    rows = zip(nats, constant_nats, accuracies, strict=True)
    return tuple(
        f"codebook {codebook} is hardly better predicted than by never looking ({found:.3f} nats "
        f"per code, {constant:.3f} without looking)"
        for codebook, (found, constant, accuracy) in enumerate(rows)
        if accuracy < config.min_accuracy
        and not found < max(CONSTANT_MARGIN * constant, _SMALL_NATS)
    )


@dataclass(frozen=True)
class Findings:
    """What can be wrong with a gate, each in plain sentences, and how its loss went."""

    silent_modules: tuple[str, ...]
    stopped: Event | None
    """The refusal that ended the updates early."""
    free_run_faults: tuple[str, ...]
    constant_codebooks: tuple[str, ...]
    num_codebooks: int
    losses: Sequence[float]
    """Nats per code of every sound update."""
    accuracy: float
    """Teacher-forced share of right cells."""

    @property
    def problems(self) -> tuple[str, ...]:
        """All that keeps the real run from starting."""
        return (*self.silent_modules, *self.free_run_faults, *self.constant_codebooks)


def explain_failure(findings: Findings, departure: Departure | None, *, train: TrainConfig) -> str:
    """Name the one cause of all problems and what to do about it; nothing if there is no problem.

    Args:
        findings: What is wrong.
        departure: Where generation and teacher forcing part, if they do.
        train: The config of the gate.
    """
    if not findings.problems:
        return ""
    if findings.silent_modules:
        return findings.silent_modules[0]
    if findings.stopped is not None:
        return (
            f"the stability controller stopped the optimisation at update "
            f"{findings.stopped.update} ({findings.stopped.reason}): lower train.learning_rate "
            f"({train.learning_rate:g}) or raise train.warmup_updates ({train.warmup_updates})"
        )
    if departure is not None:
        return (
            f"cached generation differs from teacher forcing: in window {departure.window}, "
            f"codebook {departure.codebook}, frame {departure.frame} it says {departure.played} "
            f"where the same past, read at once, makes {departure.predicted} likeliest: look at "
            "delay, shift and generation, the training is not at fault"
        )
    advice = _advise(findings.losses, train=train)
    if 0 < len(findings.constant_codebooks) < findings.num_codebooks:
        return f"{findings.constant_codebooks[0]}: look at its head and its targets; {advice}"
    return (
        f"the windows are not learned, teacher forcing predicts {findings.accuracy:.1%} of the "
        f"cells: {advice}"
    )


def _advise(losses: Sequence[float], *, train: TrainConfig) -> str:
    """Say what to change from how the loss went."""
    tenth = max(1, len(losses) // 10)
    last = sum(losses[-tenth:]) / tenth
    before = sum(losses[-2 * tenth : -tenth]) / tenth if len(losses) > 1 else losses[0]
    rate = f"train.learning_rate ({train.learning_rate:g})"
    if not before - last > _STILL_FALLING * before and not _crawls(losses[-2 * tenth :]):
        return (
            f"the loss stands at {last:.3f}, more updates will not help, lower {rate}, or model or "
            "data are at fault"
        )
    needed = len(losses) + last / max(before - last, 1e-9) * tenth
    if needed > _PATIENCE * train.updates:
        return (
            f"the loss is still falling, but so slowly at {last:.3f} that about {needed:.0f} "
            f"updates are missing, raise {rate}"
        )
    return (
        f"the loss is still falling at {last:.3f}, raise overfit.updates ({train.updates}) to "
        f"about {needed:.0f} or more"
    )


def _crawls(losses: Sequence[float]) -> bool:
    """Whether a loss falls update for update, however little: too high a rate makes it jump."""
    falls = [later < earlier for earlier, later in pairwise(losses)]
    return sum(falls) > _STEADY * len(falls)
