"""The overfit gate: the real trainer must memorise a few windows and then run them back freely.

Only the amount of data and the regularisers differ from a long run, so a fault in delay, loss,
shift, optimiser or cached generation shows here within a minute. Generation comes in as a
function: training and sampling do not know each other. The pipeline may import this file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.errors import ConfigError
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import TokenArray, array_of_tracks
from melodac.tokens.batches import Batch, read_batch
from melodac.tokens.delay import DelayPattern, undo_delay
from melodac.tokens.windows import evaluation_windows
from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.loop import Callbacks, Metrics, Trainer
from melodac.training.scoring import build_targets
from melodac.training.update import TrainingData


@runtime_checkable
class FreeRun(Protocol):
    """Greedy generation at T = 0."""

    def __call__(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        *,
        num_frames: int,
        prefix: Int[Tensor, "B K P"],
    ) -> Int64[Tensor, "B K T"]:
        """Continue each prefix to a track that ends after `num_frames` frames."""
        ...


@dataclass(frozen=True)
class OverfitReport:
    """What the gate found; accuracies are shares of the cells after the prefix."""

    updates: int
    """Updates taken."""
    loss: float
    """Nats per code in the last update."""
    teacher_forced_accuracy: float
    """Share of most likely codes that are right when the past is the truth."""
    free_run_accuracy: float
    """Share of codes that are right when the past is what the model said itself."""
    free_run_accuracy_per_codebook: tuple[float, ...]
    is_passed: bool
    """Whether the free run is at least as accurate as the config asks."""


def cut_windows(array: TokenArray, config: OverfitConfig) -> TokenArray:
    """A few windows as tracks of their own that end where the window ends.

    Args:
        array: Tracks of the training split.
        config: How many windows, and how long.

    Raises:
        ConfigError: If the tracks do not hold so many windows.
    """
    table = evaluation_windows([int(length) for length in array.lengths], config.window_frames)
    whole = np.flatnonzero(table.num_frames == config.window_frames)
    if len(whole) < config.windows:
        raise ConfigError(
            f"the overfit gate needs {config.windows} windows of {config.window_frames} frames, "
            f"the training tracks hold {len(whole)}: lower overfit.window_frames or "
            "overfit.windows, or add music"
        )
    # spread over all tracks: neighbours may be repeats of each other
    rows = whole[np.linspace(0, len(whole) - 1, config.windows).astype(np.int64)]
    return array_of_tracks([
        (
            f"{array.track_ids[window.track]}+{window.start}",
            array.codes(window.track)[window.start : window.start + config.window_frames],
        )
        for window in (table[int(row)] for row in rows)
    ])


def run_overfit(
    model: LanguageModel,
    pattern: DelayPattern,
    windows: TokenArray,
    *,
    config: OverfitConfig,
    free_run: FreeRun,
    on_update: Callable[[Metrics], None] = lambda _: None,
) -> OverfitReport:
    """Memorise the windows, then run them back.

    Args:
        model: Untrained, on its device, built without dropout.
        pattern: Delay pattern of the long run to come.
        windows: What `cut_windows` cut.
        config: The gate.
        free_run: Generates greedily.
        on_update: Hears of every update.
    """
    batch = read_batch(
        windows,
        evaluation_windows([config.window_frames] * config.windows, config.window_frames),
        config.window_frames,
        pattern.max_delay,
    )
    watch = _Watch(model, pattern, batch, config)

    def hear(metrics: Metrics) -> None:
        watch.loss = float(metrics["loss"])
        on_update(metrics)

    trainer = Trainer(
        model,
        pattern,
        TrainingData(windows, windows, config.window_frames),
        config=_train_config(config),
        directory=None,
        identity={},
        callbacks=Callbacks(on_update=hear, should_stop=watch.is_memorised),
    )
    result = trainer.run()
    model.eval()
    truth = batch.codes[..., : config.window_frames]
    found = free_run(
        model, pattern, num_frames=config.window_frames, prefix=truth[..., : config.prefix_frames]
    )
    right = (found.cpu() == truth)[..., config.prefix_frames :].double()
    accuracy = float(right.mean())
    return OverfitReport(
        updates=result.update,
        loss=watch.loss,
        teacher_forced_accuracy=watch.teacher_forced_accuracy(),
        free_run_accuracy=accuracy,
        free_run_accuracy_per_codebook=tuple(float(share) for share in right.mean(dim=(0, 2))),
        is_passed=accuracy >= config.min_accuracy,
    )


class _Watch:
    """Notices when every cell after the prefix is predicted, so that no update is wasted."""

    def __init__(
        self, model: LanguageModel, pattern: DelayPattern, batch: Batch, config: OverfitConfig
    ) -> None:
        self.loss = float("inf")
        self._model = model
        self._pattern = pattern
        self._batch = batch
        self._config = config

    def is_memorised(self) -> bool:
        return self.loss < self._config.stop_loss and self.teacher_forced_accuracy() == 1.0

    @torch.inference_mode()
    def teacher_forced_accuracy(self) -> float:
        device = next(self._model.parameters()).device
        sequence, _ = build_targets(self._batch, self._pattern, device)
        was_training = self._model.training
        guesses = self._model.eval()(sequence).argmax(dim=-1)
        self._model.train(was_training)
        right: Bool[Tensor, "B K T"] = undo_delay(guesses, self._pattern) == undo_delay(
            sequence, self._pattern
        )
        return float(right[..., self._config.prefix_frames :].double().mean())


def _train_config(config: OverfitConfig) -> TrainConfig:
    return TrainConfig(
        updates=config.updates,
        windows_per_update=config.windows,
        micro_batch=config.windows,
        learning_rate=config.learning_rate,
        min_learning_rate_ratio=0.1,
        warmup_updates=config.warmup_updates,
        weight_decay=0.0,
        beta1=0.9,
        beta2=0.95,
        clip_norm=1.0,
        ema_decay=0.0,
        dropout=0.0,
        validate_every=config.updates,
        checkpoint_every=config.updates,
        keep_checkpoints=2,
        seed=config.seed,
    )
