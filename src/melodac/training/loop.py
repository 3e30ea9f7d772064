"""The one trainer: windows in, an update at a time out, resumable to the bit.

The whole state of a run is weights, averaged weights, moments and one number, the updates done;
learning rate, windows and all that is drawn are pure functions of it. The overfit gate
and the real run are both this class. Evaluation and the pipeline may import this file.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from melodac.errors import ConfigError, NonFiniteError
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import Starts, evaluation_windows
from melodac.training.checkpoint import check_identity, latest_checkpoint
from melodac.training.config import TrainConfig
from melodac.training.gradients import GradientTaker
from melodac.training.loss import codebook_means, total_loss
from melodac.training.schedule import learning_rate_at
from melodac.training.scoring import score_windows
from melodac.training.state import Best, TrainState
from melodac.training.update import TrainingData, UpdateReader

Metrics = dict[str, float | int | bool | str]
"""One line of the training log; every loss is in nats per code."""

_KEPT_APART = {"checkpoint_every", "keep_checkpoints"}
"""Keys of `TrainConfig` that may differ between a checkpoint and the run that resumes it."""


class TrainResult(NamedTuple):
    """How a run ended."""

    update: int
    best: Best | None
    is_complete: bool
    """False if `should_stop` ended the run before its last update."""


@dataclass(frozen=True)
class Callbacks:
    """What the caller wants to hear, and whether it wants the run to end."""

    on_update: Callable[[Metrics], None] = lambda _: None
    on_validation: Callable[[Metrics], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    """Asked between updates; a run that stops has written its checkpoint."""


class Trainer:
    """Trains one model on one data set with one config."""

    def __init__(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        data: TrainingData,
        *,
        config: TrainConfig,
        directory: Path | None,
        identity: Mapping[str, Any],
        callbacks: Callbacks = Callbacks(),
    ) -> None:
        """Set up update 0; `resume` then moves on to the newest checkpoint.

        Args:
            model: On its device, built with `config.dropout`.
            pattern: Delay pattern of the codes.
            data: Windows to learn from and to validate on.
            config: The run.
            directory: Folder of the run's state: `checkpoints/` and `best/`; None keeps nothing.
            identity: What else must agree before a checkpoint is resumed, as JSON values: codec,
                fingerprint of the data, code version. Model, delay and config are added here.
            callbacks: What the caller wants to hear.

        Raises:
            ConfigError: If the model was built with another dropout than the config names.
        """
        if model.config.dropout != config.dropout:
            raise ConfigError(
                f"the model was built with dropout {model.config.dropout}, the config says "
                f"{config.dropout}: build the model with the config's"
            )
        self.pattern = pattern
        self.data = data
        self.config = config
        self.directory = directory
        self.callbacks = callbacks
        self.identity = {
            **identity,
            "model": model.config.model_dump(mode="json"),
            "delay": {
                "name": pattern.name,
                "delays": list(pattern.delays),
                "is_flat": pattern.is_flat,
            },
            "window_frames": data.window_frames,
            "starts": _describe(data.starts),
            "train": config.model_dump(mode="json", exclude=_KEPT_APART),
        }
        self.state = TrainState(model, config, memories={})
        self.reader = UpdateReader(data, pattern, config, self.state.device)
        self.gradients = GradientTaker(model, config)

    @property
    def update(self) -> int:
        """Updates done so far."""
        return self.state.update

    @property
    def epoch(self) -> float:
        """Passes over the training windows done so far."""
        return self.reader.epoch_after(self.update)

    def resume(self) -> tuple[str, ...]:
        """Continue from the newest valid checkpoint, if there is one.

        A checkpoint of another run is refused with `CheckpointMismatchError`, a directory whose
        checkpoints are all damaged with `CheckpointCorruptError`.

        Returns:
            One line about each newer checkpoint that is damaged and was passed over.
        """
        if self.directory is None:
            return ()
        checkpoint, warnings = latest_checkpoint(self.directory / "checkpoints")
        if checkpoint is not None:
            check_identity(checkpoint, self.identity)
            self.state.restore(checkpoint)
        return warnings

    def run(self) -> TrainResult:
        """Train up to the last update, or until the caller wants to stop.

        A loss or gradient that is not finite ends the run with `NonFiniteError` before it reaches
        a weight.
        """
        while self.update < self.config.updates and not self.callbacks.should_stop():
            self.callbacks.on_update(self._take_update())
            is_last = self.update == self.config.updates
            if is_last or self.update % self.config.validate_every == 0:
                self._validate()
            if self.update % self.config.checkpoint_every == 0:
                self._save()
        self._save()
        return TrainResult(self.update, self.state.best, self.update == self.config.updates)

    def _take_update(self) -> Metrics:
        started_s = time.monotonic()
        update = self.update + 1
        learning_rate = learning_rate_at(update, self.config)
        self.state.optimizer.set_learning_rate(learning_rate)
        nats, counts = self.gradients.take(update, self.reader.read(update))
        loss = float(total_loss(nats, counts))
        total_norm = self.gradients.norm()
        norm = float(total_norm)
        self._refuse_what_is_not_finite(update, loss, norm)
        self.gradients.clip(total_norm)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.state.average.update(self.state.model, update)
        self.state.update = update
        num_frames = int(counts[0])
        self.state.num_frames += num_frames
        return {
            "update": update,
            "epoch": self.epoch,
            "num_frames": self.state.num_frames,
            "learning_rate": learning_rate,
            "loss": loss,
            **_per_codebook(codebook_means(nats, counts)),
            "grad_norm": norm,
            "is_clipped": norm > self.config.clip_norm,
            "frames_per_s": num_frames / max(time.monotonic() - started_s, 1e-9),
        }

    def _refuse_what_is_not_finite(self, update: int, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.state.optimizer.zero_grad()
            raise NonFiniteError(
                f"update {update} has loss {loss} and gradient norm {norm}, both must be finite; "
                "the weights were not changed and the last checkpoint is good: lower "
                "train.learning_rate or train.clip_norm, or look at the windows of this update"
            )

    def _validate(self) -> None:
        frames = self.data.window_frames
        scores = score_windows(
            self.state.average.model,
            self.pattern,
            self.data.validation,
            evaluation_windows([int(n) for n in self.data.validation.lengths], frames),
            frames=frames,
            windows_per_batch=self.config.micro_batch,
        )
        nats, counts = scores.nats.sum(dim=0), scores.counts.sum(dim=0)
        loss = float(total_loss(nats, counts))
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"validation after update {self.update} has loss {loss}: the averaged weights "
                "have diverged, lower train.learning_rate"
            )
        is_best = self.state.best is None or loss < self.state.best.loss
        if is_best:
            self.state.best = Best(self.update, loss)
            self._save_best()
        self.callbacks.on_validation({
            "update": self.update,
            "loss": loss,
            **_per_codebook(codebook_means(nats, counts)),
            "is_best": is_best,
        })

    def _save(self) -> None:
        if self.directory is not None and self.update:
            self.state.save(
                self.directory / "checkpoints",
                self.identity,
                keep=self.config.keep_checkpoints,
            )

    def _save_best(self) -> None:
        if self.directory is not None:
            self.state.save_best(self.directory / "best", self.identity)


def _describe(starts: Starts) -> dict[str, Any]:
    digest = hashlib.sha256(repr(starts.bars).encode()).hexdigest() if starts.bars else None
    return {"is_fixed": starts.is_fixed, "bars_sha256": digest}


def _per_codebook(means: list[float]) -> Metrics:
    return {f"loss_k{codebook}": mean for codebook, mean in enumerate(means)}
