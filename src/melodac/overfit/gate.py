"""The overfit gate: the real trainer must memorise a few windows and reproduce them in free runs.

Only the amount of data and the regularisers differ from the real run, so a fault in delay, loss,
shift, optimizer or cached generation shows here within a minute. The gate must test what will run,
so optimizer, learning rate, schedule, clipping, stability, precision and condition stay the same.
The length of the real run, its validation and its checkpoints do not enter the gate's config.
Generation is passed in as a function, since `training` and `sampling` do not import each other.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from melodac.errors import DivergenceError, TrainingError
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.models.layers import evaluation_mode
from melodac.overfit.free_runs import GenerateRuns, Memorised, measure_free_runs
from melodac.overfit.report import (
    Findings,
    OverfitReport,
    compare_gradients,
    explain_failure,
    find_constant_codebooks,
    find_free_run_faults,
    silent_modules,
    take_first_gradients,
)
from melodac.overfit.window_choice import GateWindows, choose_windows
from melodac.tokens.array import TokenArray
from melodac.tokens.batches import read_batch
from melodac.tokens.delay import DelayPattern, undo_delay
from melodac.tokens.windows import evaluation_windows
from melodac.training.conditions import full_conditions
from melodac.training.config import (
    CollapseConfig,
    CorruptionConfig,
    ObjectiveConfig,
    OverfitConfig,
    TrainConfig,
)
from melodac.training.data import TrainingData
from melodac.training.events import Event, Metrics
from melodac.training.loss import Targets, build_targets, codebook_means, per_codebook_loss
from melodac.training.trainer import Callbacks, Trainer

_WARMUP_FRAC = 0.1
"""Largest share of the gate spent on warm-up: Adam needs some tens of gradients for its second
moment, and a warm-up of thousands of updates would leave a gate of hundreds at a rate near zero.
Not a share of the real run's length, or the gate would run again whenever that changes."""

_DECAY_FRAC = 0.2
"""Largest share of the gate spent on the decay of the wsd schedule."""

_PLAIN_OBJECTIVE = ObjectiveConfig(
    label_smoothing=0.0,
    codebook_weights="uniform",
    codebook_alpha=0.0,
    entropy_bonus=0.0,
    entropy_updates=0,
    usage_bonus=0.0,
    usage_updates=0,
)

_NO_CORRUPTION = CorruptionConfig(
    token_noise=0.0,
    token_noise_updates=0,
    own_codes=0.0,
    own_codes_from=0,
    own_codes_updates=0,
)

_NO_PROBES = CollapseConfig(
    action="warn",
    probe_windows=0,
    min_usage_ratio=0.0,
    min_entropy_ratio=0.0,
    max_attention_change=1.0,
)


def gate_config(train: TrainConfig, overfit: OverfitConfig) -> TrainConfig:
    """Return the config of the gate's run: the real one without regularisers, at the gate's length.

    Args:
        train: Config of the real run.
        overfit: Config of the gate.
    """
    warmup = min(train.warmup_updates, int(_WARMUP_FRAC * overfit.updates))
    return train.model_copy(
        update={
            "updates": overfit.updates,
            "windows_per_update": overfit.windows,
            "micro_batch": _largest_divisor(overfit.windows, train.micro_batch),
            "context": (),
            "warmup_updates": warmup,
            "decay_updates": min(train.decay_updates, int(_DECAY_FRAC * overfit.updates)),
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "dropout": 0.0,
            "unconditional_frac": 0.0,
            "tag_shuffle": False,
            "tag_dropout": 0.0,
            "objective": _PLAIN_OBJECTIVE,
            "corruption": _NO_CORRUPTION,
            "collapse": _NO_PROBES,
            "validate_every": overfit.updates,
            "checkpoint_every": overfit.updates,
            "keep_checkpoints": 2,
            "keep_checkpoints_mb": 0,
            "seed": overfit.seed,
        }
    )


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)


_CURVE_POINTS = 50
"""Points of the loss curve that are reported."""


class RunSpec(NamedTuple):
    """Data and config of the real run."""

    data: TrainingData
    config: TrainConfig


def run_overfit(
    model: LanguageModel,
    pattern: DelayPattern,
    real: RunSpec,
    *,
    config: OverfitConfig,
    play: GenerateRuns,
    on_update: Callable[[Metrics], None] = lambda _: None,
) -> OverfitReport:
    """Audit the fresh model, memorise some windows, then reproduce them in free runs.

    Raises `AuditError` for a model that starts wrong, `ConfigError` for too little music and
    `TrainingError` for silence. Later faults are in the report.

    Args:
        model: Untrained, on its device, built without dropout.
        pattern: Delay pattern of the real run.
        real: The real run; the gradients of one of its updates are measured.
        config: Config of the gate.
        play: Function that generates.
        on_update: Called with the metrics of every update.

    Raises:
        TrainingError: If no update had a finite loss.
    """
    chosen = choose_windows(real.data, pattern, config)
    windows, config, _ = chosen
    train = gate_config(real.config, config)
    watch = _Watch(model, pattern, chosen)
    refusals: list[Event] = []

    def hear(metrics: Metrics) -> None:
        if math.isfinite(loss := float(metrics["loss"])):  # a refused update has no finite loss
            watch.losses.append(loss)
        on_update(metrics)

    trainer = Trainer(
        model,
        pattern,
        windows,
        config=train,
        directory=None,
        identity={},
    )
    callbacks = Callbacks(on_update=hear, should_stop=watch.is_memorised, on_event=refusals.append)
    audit = trainer.audit()
    # drawn with the gate's seed, so that it does not depend on that of the run
    real_config = real.config.model_copy(update={"seed": config.seed})
    first_real = take_first_gradients(model, pattern, real.data, real_config)
    first_gate = take_first_gradients(model, pattern, windows, train)
    try:
        trainer.run(callbacks)
        stopped = None
    except DivergenceError:
        stopped = refusals[-1]  # refused updates change no weight, so the rest can be measured
    if not watch.losses:
        raise TrainingError(
            f"none of {trainer.update} updates of the overfit gate had a finite loss: lower "
            "train.learning_rate"
        )
    memorised = Memorised(watch.codes, watch.teacher_forced(), watch.condition, play)
    free_runs = measure_free_runs(model, pattern, memorised, prefix_frames=config.prefix_frames)
    nats, constant = watch.nats_per_codebook(), constant_nats(windows.train)
    findings = Findings(
        silent_modules=tuple(silent_modules(first_real, first_gate)),
        stopped=stopped,
        free_run_faults=tuple(find_free_run_faults(free_runs, config)),
        constant_codebooks=find_constant_codebooks(
            nats, constant, free_runs.continued_per_codebook, config
        ),
        num_codebooks=pattern.num_codebooks,
        losses=watch.losses,
        accuracy=watch.teacher_forced_accuracy(),
    )
    return OverfitReport(
        updates=trainer.update,
        windows=windows.train.track_ids,
        window_frames=config.window_frames,
        prefix_frames=config.prefix_frames,
        notes=(*chosen.notes, *([f"stopped early: {stopped.reason}"] if stopped else ())),
        loss=watch.losses[-1],
        loss_curve=_curve(watch.losses),
        teacher_forced_accuracy=findings.accuracy,
        nats_per_codebook=tuple(nats),
        constant_nats_per_codebook=tuple(constant),
        free_runs=free_runs,
        gradients=tuple(compare_gradients(first_real, first_gate)),
        audit=audit,
        problems=findings.problems,
        cause=explain_failure(findings, free_runs.departure, train=train),
    )


def constant_nats(array: TokenArray) -> list[float]:
    """Return the entropy of each codebook's code frequencies, in nats per code.

    It is the loss of the best predictor that ignores the past.
    """
    counts = [np.unique(column, return_counts=True)[1] for column in array.values.T]
    shares = [count / count.sum() for count in counts]
    return [float(-(share * np.log(share)).sum()) + 0.0 for share in shares]


class _Watch:
    """Early stopping of the gate, once teacher forcing predicts every scored cell."""

    def __init__(self, model: LanguageModel, pattern: DelayPattern, chosen: GateWindows) -> None:
        self.losses: list[float] = []
        self._model = model
        self._pattern = pattern
        windows, self._config, _ = chosen
        frames = self._config.window_frames
        table = evaluation_windows([frames] * self._config.windows, frames)
        batch = read_batch(windows.train, table, frames, pattern.max_delay)
        device = next(model.parameters()).device
        self.codes = batch.codes[..., :frames]
        self.condition: Condition | None = None
        if windows.train_tags and model.config.text_bytes:
            texts = full_conditions(windows.train_tags, model.config.text_bytes)
            self.condition = texts.to(device)
        self._targets: Targets = build_targets(batch, pattern, device)

    def is_memorised(self) -> bool:
        return (
            bool(self.losses)
            and self.losses[-1] < self._config.stop_loss
            and self.teacher_forced_accuracy() == 1.0
        )

    def teacher_forced(self) -> Int64[Tensor, "B K T"]:
        """Return the likeliest code of every cell under teacher forcing."""
        return undo_delay(self._logits().argmax(dim=-1), self._pattern).cpu()

    def teacher_forced_accuracy(self) -> float:
        # a single window must also be reproduced without a prefix
        first = 0 if self._config.windows == 1 else self._config.prefix_frames
        return float((self.teacher_forced() == self.codes)[..., first:].double().mean())

    def nats_per_codebook(self) -> list[float]:
        return codebook_means(*per_codebook_loss(self._logits(), *self._targets))

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        with evaluation_mode(self._model):
            return self._model(self._targets.sequence, self.condition)


def _curve(losses: list[float]) -> tuple[tuple[int, float], ...]:
    every = max(1, len(losses) // _CURVE_POINTS)
    return tuple(
        (update, loss)
        for update, loss in enumerate(losses, start=1)
        if update % every == 0 or update in {1, len(losses)}
    )
