"""The one trainer: update by update, resumable to the bit.

The whole state of a run is weights, EMA weights, optimizer state, the state of its guards and one
number, the updates done; learning rate, windows and all random draws are pure functions of it. The
overfit gate and the real run both use this class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from melodac.errors import AuditError, ConfigError
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.training.checkpoint import check_identity, latest_checkpoint
from melodac.training.config import TrainConfig
from melodac.training.data import Prefetcher, TrainingData, UpdateInput
from melodac.training.distributed import Ranks
from melodac.training.events import Event, Metrics
from melodac.training.guards.collapse import CollapseMonitor
from melodac.training.guards.stability import Judgement, StabilityController, divergence
from melodac.training.guards.start import audit_start
from melodac.training.guards.variety import GenerateCodes
from melodac.training.optimizer import ExponentialAverage
from melodac.training.planning.cost import PassTimes, time_passes
from melodac.training.planning.memory import MemoryShape, memory_guard, say_what_needs_less
from melodac.training.state import (
    Best,
    TrainState,
    choose_rollback,
    describe_identity,
    hash_identity,
)
from melodac.training.step import GradientAccumulator, UpdateStep
from melodac.training.validation import Validator


class TrainResult(NamedTuple):
    """Result of a run."""

    update: int
    best: Best | None
    is_complete: bool
    """True if the last update was done; False if `should_stop` ended the run before."""


@dataclass(frozen=True)
class Callbacks:
    """Functions of the caller: for metrics and events, to generate, and to end the run."""

    on_update: Callable[[Metrics], None] = lambda _: None
    on_validation: Callable[[Metrics], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    """Called between updates; True ends the run after its checkpoint is written."""
    on_event: Callable[[Event], None] = lambda _: None
    generate_codes: GenerateCodes | None = None
    """Generates from the model; without it output collapse is not measured."""


class Trainer:
    """Trainer of one model on one data set with one config."""

    def __init__(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        data: TrainingData,
        *,
        config: TrainConfig,
        directory: Path | None,
        identity: Mapping[str, Any],
        ranks: Ranks | None = None,
    ) -> None:
        """Set up update 0; `resume` then continues from the newest checkpoint.

        Args:
            model: Model on its device, built with `config.dropout`; fsdp shards it in place.
            pattern: Delay pattern of the codes.
            data: Training and validation data.
            config: Config of the run.
            directory: Folder of the run's state: `checkpoints/` and `best/`; None keeps nothing.
            identity: Further fields that must match to resume a checkpoint, as JSON values: codec,
                fingerprint of the data, code version. Model, delay and config are added here.
            ranks: Processes that share each update; by default those of `torch.distributed`, each
                with a whole model.

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
        self.identity = describe_identity(identity, model, pattern, data=data, config=config)
        self.ranks = ranks or Ranks.current()
        self.stability = StabilityController(config.stability, clip_norm=config.clip_norm)
        self.monitor = CollapseMonitor(config.collapse)
        # copied before fsdp shards the model, then sharded in the same way
        average = ExponentialAverage(model, config.ema_decay)
        self.gradients = GradientAccumulator(model, pattern, data, config, ranks=self.ranks)
        self.ranks.wrap(average.model)
        self.state = TrainState(
            model,
            average,
            config,
            memories={
                "stability": self.stability,
                "collapse": self.monitor,
                "corruption": self.gradients.corruption,
                "compute": self.gradients.compute,
            },
            ranks=self.ranks,
        )
        self._step = UpdateStep(self.state, self.gradients, self.stability, config)

    @property
    def update(self) -> int:
        """Number of updates done."""
        return self.state.update

    @property
    def epoch(self) -> float:
        """Passes over the training windows done so far."""
        return self.gradients.reader.order.epoch_after(self.update)

    def resume(self) -> tuple[str, ...]:
        """Continue from the newest valid checkpoint, if there is one.

        A checkpoint of another run raises `CheckpointMismatchError`, a directory whose checkpoints
        are all damaged `CheckpointCorruptError`.

        Returns:
            One line about each newer checkpoint that was skipped as damaged.
        """
        if self.directory is None:
            return ()
        checkpoint, warnings = latest_checkpoint(self.directory / "checkpoints")
        self.ranks.check_equal(hash_identity(self.identity), "identity of the run")
        self.ranks.check_equal(checkpoint.update if checkpoint else 0, "checkpoint")
        if checkpoint is not None:
            check_identity(checkpoint, self.identity)
            self.state.restore(checkpoint)
        return warnings

    def audit(self) -> dict[str, float]:
        """Audit a model that is not trained yet; return every measured number.

        Raises:
            AuditError: If anything is wrong with the start, which training would only hide.
        """
        with self.ranks.whole(self.state.model) as model:
            parts = self.gradients.reader.read(1).parts
            report = self.ranks.from_first(lambda: audit_start(model, parts, self.pattern))
        if report.problems:
            raise AuditError(
                f"the model is not fit to be trained: {'; '.join(report.problems)}. Look at "
                "src/melodac/models/initialization.py and at what was changed last"
            )
        return report.numbers

    def time_passes(self) -> PassTimes:
        """Time the passes of an update; no weight changes."""
        with (
            memory_guard(lambda: "a trial pass", self._say_what_needs_less),
            self.gradients.compute.active(),
        ):
            return time_passes(self.gradients)

    def run(self, callbacks: Callbacks = Callbacks()) -> TrainResult:
        """Train up to the last update, or until the caller stops the run.

        Updates with an unsound loss or gradient are refused before they change a weight. A run that
        cannot recover raises `DivergenceError`, one with output collapse `CollapseError`.
        """
        reader = self.gradients.reader
        # Reading takes about 2 ms, worth a thread beside a GPU only: on a CPU a second thread that
        # computes makes OpenMP's threads sleep between operations (0.22 s an update, not 0.16 s).
        depth = 0 if self.gradients.device.type == "cpu" else 1
        validator = Validator(
            self.data,
            self.pattern,
            windows_per_batch=self.config.micro_batch,
            probe_windows=self.config.collapse.probe_windows,
            generate_codes=callbacks.generate_codes,
            ranks=self.ranks,
        )
        with (
            memory_guard(lambda: f"update {self.update + 1}", self._say_what_needs_less),
            self.gradients.compute.active(),
            Prefetcher(reader.read, self.update + 1, self.config.updates, depth=depth) as ahead,
        ):
            # a run resumed from a checkpoint after output collapse ends here
            self.monitor.refuse(is_last=self._is_complete)
            if self.update == 0:
                start = validator.probe(self.state.average.model)
                if start is not None:
                    self.monitor.remember_start(start)
                self._save()
            while not self.ranks.any(self._is_complete or callbacks.should_stop()):
                self._take_update(ahead.take(self.update + 1), callbacks)
                if self._is_complete or self.update % self.config.validate_every == 0:
                    self._validate(validator, callbacks)
                # broken weights are not saved: the next loss shows them and the run rolls back
                if self.update % self.config.checkpoint_every == 0 and self.state.is_finite:
                    self._save()
            self._save()
        return TrainResult(self.update, self.state.best, self._is_complete)

    def _say_what_needs_less(self) -> str:
        num_steps = self.pattern.num_steps(self.data.window_frames)
        model, ranks = self.state.model.config, self.ranks
        return say_what_needs_less(
            MemoryShape(model, self.config, num_steps, ranks.world_size, ranks.sharding)
        )

    @property
    def _is_complete(self) -> bool:
        return self.update == self.config.updates

    def _take_update(self, read: UpdateInput, callbacks: Callbacks) -> None:
        result = self._step.take(self.update + 1, read)
        callbacks.on_update(result.metrics)
        for event in result.events:
            callbacks.on_event(event)
        if result.judgement.verdict in {"roll_back", "stop"}:
            callbacks.on_event(self._roll_back(result.judgement))

    def _roll_back(self, judgement: Judgement) -> Event:
        if judgement.verdict == "stop" or self.directory is None:
            raise divergence(self.update, judgement.reason, rollbacks=self.stability.rollbacks)
        checkpoint = choose_rollback(
            self.directory / "checkpoints", below=self.stability.rollback_below
        )
        self.state.restore_weights(checkpoint)
        return self.stability.rolled_back(self.update, to=checkpoint.update)

    def _validate(self, validator: Validator, callbacks: Callbacks) -> None:
        found = validator.validate(self.state.average.model, self.update)
        metrics, events = found.metrics, []
        if found.probe is not None:
            report = self.monitor.judge(found.probe)
            metrics |= report.line
            events = [finding.event(self.update) for finding in report.findings]
        corruption = self.gradients.corruption
        if events and corruption.reads_own_codes:
            events.append(corruption.stop_own_codes(self.update))
        is_best = self.state.best is None or found.loss < self.state.best.loss
        if is_best:
            self.state.best = Best(self.update, found.loss)
            if self.directory is not None:
                self.state.save_best(self.directory / "best", self.identity)
        coverage = self.gradients.reader.order.coverage_after(self.update)
        callbacks.on_validation({**metrics, **coverage._asdict(), "is_best": is_best})
        for event in events:
            callbacks.on_event(event)
        if self.monitor.failure(is_last=self._is_complete) is not None:
            self._save()
            self.monitor.refuse(is_last=self._is_complete)

    def _save(self) -> None:
        if self.directory is not None:
            self.state.save(self.directory / "checkpoints", self.identity)
