"""Report of the overfit gate: measurements, verdict, and advice where it fails.

Gradients of a first update are compared module by module, the real run's with the gate's: both are
taken from the same fresh weights, the real one with its regularisers. A module without a gradient
never learns, whatever the loss does.
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
from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.data import TrainingData, UpdateInput, UpdateReader
from melodac.training.distributed import Ranks
from melodac.training.events import Event
from melodac.training.guards.model_probe import gradient_norms
from melodac.training.step import GradientAccumulator

_UPDATES_SEARCHED = 20
"""Updates searched for one that reads a text, since conditioning dropout may hide all texts."""

_TEXT = re.compile(r"text_encoder|cross_attention_norm")
"""Modules that only a text can train: if all keys are the null vector, queries get no gradient."""


class FirstGradients(NamedTuple):
    """Gradients of one update from fresh weights."""

    norms: dict[str, float]
    """Norm of each module's gradients, before clipping."""
    has_text: bool
    """True if any item had a text to read."""

    def silent(self) -> list[str]:
        """Return the modules without a gradient, text modules excepted where no item had a text."""
        return [
            module
            for module, norm in self.norms.items()
            if norm == 0 and (self.has_text or not _TEXT.search(module))
        ]


class ModuleGradients(NamedTuple):
    """Gradients of one module in both updates."""

    module: str
    real: float
    """Gradient norm in an update of the real run."""
    overfit: float
    """Gradient norm in an update of the gate."""
    ratio: float | None
    """Share of the whole gradient in the real update over that in the gate's update; None if the
    gate's gradient is zero."""


def take_first_gradients(
    model: LanguageModel, pattern: DelayPattern, data: TrainingData, config: TrainConfig
) -> FirstGradients:
    """Run one update forward and backward and return its gradient norms; weights stay.

    Args:
        model: Fresh model; its gradients are cleared.
        pattern: Delay pattern of the codes.
        data: Data of the run.
        config: Config of the run whose update it is, its dropout included.
    """
    gradients = GradientAccumulator(model, pattern, data, config, ranks=Ranks.current())
    searched = _UPDATES_SEARCHED if model.config.text_bytes else 1
    update, read = _choose_update(gradients.reader, min(config.updates, searched))
    model.zero_grad()
    with gradients.compute.active(), _dropout(model, config.dropout):
        gradients.take(update, read)
    norms = gradient_norms(model)
    model.zero_grad()
    return FirstGradients(norms, _has_text(read))


def compare_gradients(real: FirstGradients, overfit: FirstGradients) -> list[ModuleGradients]:
    """Compare the gradients of both updates, module by module."""
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
    """Return one sentence for each module that gets no gradient."""
    return [
        f"{module} receives no gradient from an update of {run}: look at what reads it"
        for run, found in (("the real run", real), ("the gate", overfit))
        for module in found.silent()
    ]


def _choose_update(reader: UpdateReader, last: int) -> tuple[int, UpdateInput]:
    """Return the first update with a text, or update 1 if none has one."""
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
    """Set the dropout of all modules of the model for a with-block."""
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
"""Nats per code that always count as memorised; the constant predictor itself has 0 nats on a
codebook that holds one code."""

_STILL_FALLING = 0.003
"""Relative fall of the loss, last tenth of the updates to the tenth before, that is progress."""

_STEADY = 0.75
"""Share of updates with a lower loss that is slow but steady progress; a loss that jumps has half.
"""

_PATIENCE = 4.0
"""Most updates worth advising, as a multiple of the gate's; beyond that the rate is too small."""


@dataclass(frozen=True)
class OverfitReport:
    """Measurements of the gate; accuracies are shares of the cells after the prefix.

    A single window must be reproduced without a prefix, so its teacher forcing counts all cells.
    """

    updates: int
    """Updates taken."""
    windows: tuple[str, ...]
    """Track and first frame of each window."""
    window_frames: int
    prefix_frames: int
    """Frames of each window that a free run is given."""
    notes: tuple[str, ...]
    """One sentence for each setting that differs from the config."""
    loss: float
    """Nats per code in the last update."""
    loss_curve: tuple[tuple[int, float], ...]
    """Pairs of update and nats per code, a sample of all updates."""
    teacher_forced_accuracy: float
    """Share of cells whose likeliest code is right under teacher forcing."""
    nats_per_codebook: tuple[float, ...]
    """Cross-entropy of each codebook under teacher forcing, of the trained model."""
    constant_nats_per_codebook: tuple[float, ...]
    """Cross-entropy of the best predictor that ignores the past: entropy of code frequencies."""
    free_runs: FreeRuns
    """Accuracy of free runs, in which the past is the model's own output."""
    gradients: tuple[ModuleGradients, ...]
    """Gradients of the first update, of the real run and of the gate."""
    audit: dict[str, float]
    """Audit of the fresh model: its numbers by name."""
    problems: tuple[str, ...]
    """Faults, one plain sentence each; empty if the real run may start."""
    cause: str
    """Cause and remedy in one sentence; empty if the real run may start."""

    @property
    def is_passed(self) -> bool:
        """True if the real run may start."""
        return not self.problems

    @property
    def free_run_accuracy(self) -> float:
        """Share of right cells in the greedy continuation of the prefix."""
        per_codebook = self.free_runs.continued_per_codebook
        return sum(per_codebook) / len(per_codebook)


def find_free_run_faults(runs: FreeRuns, config: OverfitConfig) -> list[str]:
    """Return one sentence for each way in which free runs fail to reproduce the windows."""
    found: list[str] = []
    share = runs.continued[config.prefix_frames]
    if share < config.min_accuracy:
        found.append(
            f"continued freely from {config.prefix_frames} frames, {share:.1%} of the cells are "
            f"right, {config.min_accuracy:.1%} are asked for"
        )
    # with several windows nothing says which one a run without a prefix should reproduce
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
    """Return one sentence for each codebook hardly better predicted than by code frequencies alone.

    Args:
        nats: Cross-entropy of each codebook, in nats per code.
        constant_nats: Entropy of each codebook's code frequencies, in nats per code.
        accuracies: Shares of right cells in free runs: a codebook that is reproduced is learned,
            however few nats there were to gain.
        config: Config of the gate.
    """
    rows = zip(nats, constant_nats, accuracies, strict=True)
    return tuple(
        f"codebook {codebook} is hardly better predicted than by never looking ({found:.3f} nats "
        f"per code, {constant:.3f} without looking)"
        for codebook, (found, constant, accuracy) in enumerate(rows)
        if accuracy < config.min_accuracy
        # negated, so that a NaN counts as not learned
        and not found < max(CONSTANT_MARGIN * constant, _SMALL_NATS)
    )


@dataclass(frozen=True)
class Findings:
    """Possible faults of the gate, each as plain sentences, and the course of its loss."""

    silent_modules: tuple[str, ...]
    stopped: Event | None
    """Event of the refused update that ended the run early; None if none did."""
    free_run_faults: tuple[str, ...]
    constant_codebooks: tuple[str, ...]
    num_codebooks: int
    losses: Sequence[float]
    """Nats per code of every update with a finite loss."""
    accuracy: float
    """Share of right cells under teacher forcing."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Faults that keep the real run from starting."""
        return (*self.silent_modules, *self.free_run_faults, *self.constant_codebooks)


def explain_failure(findings: Findings, departure: Departure | None, *, train: TrainConfig) -> str:
    """Return the most likely cause of the problems and the remedy; empty without a problem.

    Args:
        findings: Faults of the gate.
        departure: First cell in which generation and teacher forcing differ; None if there is none.
        train: Config of the gate's run.
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
    """Return advice based on the course of the loss."""
    tenth = max(1, len(losses) // 10)
    last = sum(losses[-tenth:]) / tenth
    before = sum(losses[-2 * tenth : -tenth]) / tenth if len(losses) > 1 else losses[0]
    rate = f"train.learning_rate ({train.learning_rate:g})"
    if not before - last > _STILL_FALLING * before and not _crawls(losses[-2 * tenth :]):
        return (
            f"the loss stands at {last:.3f}, more updates will not help, lower {rate}, or model or "
            "data are at fault"
        )
    # extrapolates the last tenth linearly to a loss of 0
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
    """Check if the loss falls at most updates, however little; a rate too high makes it jump."""
    falls = [later < earlier for earlier, later in pairwise(losses)]
    return sum(falls) > _STEADY * len(falls)
