"""What the overfit gate found, whether that is enough, and what to change if it is not.

Only the gate makes such a report; the pipeline reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.overfit_gradients import ModuleGradients
from melodac.training.overfit_runs import FreeRuns

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
    """What the gate found; accuracies are shares of the cells after the prefix."""

    updates: int
    """Updates taken."""
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
    """One plain sentence each; none if the real run may begin."""

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


def find_constant_codebooks(nats: Sequence[float], constant_nats: Sequence[float]) -> list[str]:
    """A sentence about codebooks that are hardly better predicted than by never looking."""
    found = [
        f"{codebook} ({nats[codebook]:.3f} nats per code, {constant:.3f} without looking)"
        for codebook, constant in enumerate(constant_nats)
        if not nats[codebook] < max(CONSTANT_MARGIN * constant, _SMALL_NATS)
    ]
    if not found:
        return []
    return [
        f"{len(found)} of {len(nats)} codebooks are hardly better predicted than by never looking, "
        f"the first is {found[0]}"
    ]


def advise(losses: Sequence[float], accuracy: float, *, train: TrainConfig) -> str:
    """What to change so that the gate passes, from how its loss went.

    Args:
        losses: Nats per code of every update.
        accuracy: Teacher-forced share of right cells.
        train: The config of the gate.
    """
    if accuracy == 1.0:
        return (
            f"the windows are known by heart at a loss of {losses[-1]:.3f}, so not the training is "
            "at fault but delay, shift or generation"
        )
    tenth = max(1, len(losses) // 10)
    last = sum(losses[-tenth:]) / tenth
    before = sum(losses[-2 * tenth : -tenth]) / tenth if len(losses) > 1 else losses[0]
    rate = f"train.learning_rate ({train.learning_rate:g})"
    if not before - last > _STILL_FALLING * before and not _crawls(losses[-2 * tenth :]):
        return (
            f"the loss stands at {last:.3f}: more updates will not help, lower {rate}, or model or "
            "data are at fault"
        )
    needed = len(losses) + last / max(before - last, 1e-9) * tenth
    if needed > _PATIENCE * train.updates:
        return (
            f"the loss is still falling, but so slowly at {last:.3f} that about {needed:.0f} "
            f"updates are missing: raise {rate}"
        )
    return (
        f"the loss is still falling at {last:.3f}: raise overfit.updates ({train.updates}) to "
        f"about {needed:.0f} or more"
    )


def _crawls(losses: Sequence[float]) -> bool:
    """Whether a loss falls update for update, however little: too high a rate makes it jump."""
    falls = [later < earlier for earlier, later in pairwise(losses)]
    return sum(falls) > _STEADY * len(falls)
