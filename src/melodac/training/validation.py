"""Validation of the EMA weights: nats on every held-out frame, and signs of output collapse.

Nothing specific to training is used: no dropout, no smoothing, no noise.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from melodac.errors import NonFiniteError
from melodac.models.language_model import LanguageModel
from melodac.tokens.batches import read_batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import evaluation_windows
from melodac.training.data import TrainingData
from melodac.training.distributed import Ranks
from melodac.training.events import Metrics
from melodac.training.guards.variety import (
    CollapseMetrics,
    GenerateCodes,
    choose_probe,
    probe_model,
)
from melodac.training.loss import codebook_means, conditions_of, score_windows, total_loss
from melodac.training.step import per_codebook


class Validation(NamedTuple):
    """Result of one validation."""

    loss: float
    """Mean over all held-out cells, in nats per code."""
    metrics: Metrics
    probe: CollapseMetrics | None
    """Signs of output collapse; None if they are not measured."""


class Validator:
    """Validation of a model on the held-out split, always on the same windows."""

    def __init__(
        self,
        data: TrainingData,
        pattern: DelayPattern,
        *,
        windows_per_batch: int,
        probe_windows: int,
        generate_codes: GenerateCodes | None,
        ranks: Ranks,
    ) -> None:
        """Prepare the windows.

        Args:
            data: Data of the run, whose validation split is used.
            pattern: Delay pattern of the codes.
            windows_per_batch: Windows in memory at once; changes no result.
            probe_windows: Windows on which signs of collapse are measured; 0 measures none.
            generate_codes: Generates from the model; without it collapse is not measured.
            ranks: Processes of the run.
        """
        self._data = data
        self._pattern = pattern
        self._windows_per_batch = windows_per_batch
        self._probe_windows = probe_windows
        self._generate_codes = generate_codes
        self._ranks = ranks
        self._windows = evaluation_windows(
            [int(n) for n in data.validation.lengths], data.window_frames
        )

    def probe(self, model: LanguageModel) -> CollapseMetrics | None:
        """Measure signs of output collapse alone; None if they are not measured."""
        with self._ranks.whole(model) as whole:
            return self._probe(whole)

    def validate(self, model: LanguageModel, update: int) -> Validation:
        """Score every held-out frame and measure signs of output collapse.

        Raises:
            NonFiniteError: If the loss is not finite.
        """
        with self._ranks.whole(model) as whole:
            nats, counts = self._score(whole)
            loss = float(total_loss(nats, counts))
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"validation after update {update} has loss {loss}: the averaged weights have "
                    "diverged, lower train.learning_rate"
                )
            probe = self._probe(whole)
        metrics: Metrics = {
            "update": update,
            "loss": loss,
            **per_codebook("loss", codebook_means(nats, counts)),
        }
        return Validation(loss, metrics, probe)

    def _score(self, model: LanguageModel) -> tuple[Float64[Tensor, " K"], Int64[Tensor, " K"]]:
        own = self._windows.take(np.array(self._ranks.deal(len(self._windows)), dtype=np.int64))
        scores = score_windows(
            model,
            self._pattern,
            self._data.validation,
            own,
            frames=self._data.window_frames,
            windows_per_batch=self._windows_per_batch,
            tags=self._data.validation_tags,
        )
        return (
            self._ranks.sum(scores.nats.sum(dim=0)),
            self._ranks.sum(scores.counts.sum(dim=0)),
        )

    def _probe(self, model: LanguageModel) -> CollapseMetrics | None:
        """Measure the probe windows on the first process and share the result with all."""
        generate_codes = self._generate_codes
        if not self._probe_windows or generate_codes is None:
            return None
        windows = choose_probe(self._windows, self._probe_windows)
        probe = read_batch(
            self._data.validation, windows, self._data.window_frames, self._pattern.max_delay
        )
        device = next(model.parameters()).device
        condition = conditions_of(model, self._data.validation_tags, windows, device)
        return self._ranks.from_first(
            lambda: probe_model(
                model, self._pattern, probe, generate_codes=generate_codes, condition=condition
            )
        )
