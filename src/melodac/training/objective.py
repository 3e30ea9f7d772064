"""Objective of training: the plain loss, optionally smoothed, weighted, with bonuses for variety.

The plain nats are always measured too, and only they are reported; validation and evaluation do not
use this module.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor
from torch.nn import functional

from melodac.errors import ConfigError, TrainingError
from melodac.training.config import ObjectiveConfig
from melodac.training.loss import UNCOUNTED, per_codebook_loss
from melodac.training.schedule import decayed


class ObjectiveTerms(NamedTuple):
    """Terms of one micro-batch as sums, so that parts of uneven size add up exactly."""

    nats: Float[Tensor, " K"]
    """Plain nats, unsmoothed and unweighted, for the report."""
    counts: Int64[Tensor, " K"]
    """Number of counted cells."""
    objective: Float[Tensor, ""]
    """Value to differentiate, still to be divided by `Objective.normaliser`."""


class Objective:
    """Objective of training as a function of logits.

    For codebook k it is w_k (nats - a H - b U), divided by the frames of the update times the sum
    of the weights, so that no choice of weights changes its scale. Nats are those of the smoothed
    target. H is the entropy of each prediction. U is the entropy of the mean prediction of a
    window, counted once for each of its counted cells: per window and not per batch, so that it
    does not depend on micro-batches or processes.

    Source:
        Smoothing: Szegedy et al. 2016 (arXiv:1512.00567), section 7. Reward of entropy: Pereyra et
        al. 2017 (arXiv:1701.06548), section 3; of the mean prediction: Krause, Perona and Gomes
        2010, "Discriminative clustering by regularized information maximization".
    """

    def __init__(self, config: ObjectiveConfig, num_codebooks: int) -> None:
        """Compute the weights; a list of the wrong length raises `ConfigError`."""
        self._config = config
        weights = codebook_weights(config, num_codebooks)
        self._is_uniform = len(set(weights)) == 1
        self._total_weight = float(num_codebooks) if self._is_uniform else sum(weights)
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def measure(
        self,
        logits: Float[Tensor, "B K S U"],
        sequence: Int[Tensor, "B K S"],
        counted: Bool[Tensor, "B K S"],
        *,
        update: int,
    ) -> ObjectiveTerms:
        """Return the sums of one micro-batch; cells that are not counted do not affect them.

        Args:
            logits: Prediction of every cell, from earlier steps only; converted to float32.
            sequence: Delayed true codes, even if the model read corrupted ones.
            counted: True where the cell is a code whose prediction counts.
            update: Number of the update, >= 1, for the decay of the bonuses.
        """
        entropy_bonus = decayed(self._config.entropy_bonus, update, self._config.entropy_updates)
        usage_bonus = decayed(self._config.usage_bonus, update, self._config.usage_updates)
        if not (self._config.label_smoothing or entropy_bonus or usage_bonus):
            nats, counts = per_codebook_loss(logits, sequence, counted)
            return ObjectiveTerms(nats, counts, self._weigh(nats))
        predictions = _Predictions(logits, sequence, counted)
        nats = predictions.nats()
        followed = nats
        if self._config.label_smoothing:
            followed = torch.lerp(nats, predictions.even_nats(), self._config.label_smoothing)
        if entropy_bonus:
            followed = followed - entropy_bonus * predictions.entropies()
        if usage_bonus:
            followed = followed - usage_bonus * predictions.usage_entropies()
        return ObjectiveTerms(nats, counted.sum(dim=(0, 2)), self._weigh(followed))

    def normaliser(self, num_frames: int) -> float:
        """Return the divisor of the objectives of all parts of an update.

        Args:
            num_frames: Counted frames of the whole update, over all parts and processes.

        Raises:
            TrainingError: If there is no frame.
        """
        if num_frames < 1:
            raise TrainingError(
                f"an update of {num_frames} counted frames has no mean loss: give at least one "
                "window with a frame"
            )
        return num_frames * self._total_weight

    def _weigh(self, followed: Float[Tensor, " K"]) -> Float[Tensor, ""]:
        if self._is_uniform:
            return followed.sum()
        return (followed * self._weights.to(followed.device)).sum()


def codebook_weights(config: ObjectiveConfig, num_codebooks: int) -> tuple[float, ...]:
    """Return the weight of each codebook, before division by their sum.

    A list of another length than there are codebooks, or of zeros only, raises `ConfigError`.

    Args:
        config: Choice of weights.
        num_codebooks: Codebooks of the model, those of all channels.
    """
    scheme = config.codebook_weights
    if scheme == "uniform":
        return (1.0,) * num_codebooks
    if scheme == "first":
        return (1.0,) + (0.0,) * (num_codebooks - 1)
    if scheme == "auto":
        last = max(1, num_codebooks - 1)
        return tuple(1.0 + config.codebook_alpha * k / last for k in range(num_codebooks))
    return _check_weights(scheme, num_codebooks)


def _check_weights(weights: Sequence[float], num_codebooks: int) -> tuple[float, ...]:
    if len(weights) != num_codebooks:
        raise ConfigError(
            f"train.objective.codebook_weights lists {len(weights)} weights, the model has "
            f"{num_codebooks} codebooks: give one for each, or uniform, auto or first"
        )
    if not any(weights):
        raise ConfigError(
            f"train.objective.codebook_weights are all zero ({list(weights)}), so nothing would be "
            "learned: give at least one codebook a weight above 0"
        )
    return tuple(weights)


class _Predictions:
    """Sums over the counted cells of each codebook, all from one log-softmax in float32."""

    def __init__(
        self,
        logits: Float[Tensor, "B K S U"],
        sequence: Int[Tensor, "B K S"],
        counted: Bool[Tensor, "B K S"],
    ) -> None:
        # step by step, as the logits lie in memory, so that nothing is copied
        self._log_p = functional.log_softmax(logits.float().transpose(1, 2), dim=-1)
        self._counted = counted.transpose(1, 2)
        self._targets = torch.where(self._counted, sequence.long().transpose(1, 2), UNCOUNTED)

    def nats(self) -> Float32[Tensor, " K"]:
        """Return the plain loss, equal to `per_codebook_loss` to the bit."""
        nats = functional.nll_loss(
            self._log_p.flatten(0, 2),
            self._targets.flatten(),
            ignore_index=UNCOUNTED,
            reduction="none",
        )
        return nats.view(self._targets.shape).sum(dim=(0, 1))

    def even_nats(self) -> Float32[Tensor, " K"]:
        """Return the nats against a uniform target over all codes."""
        return self._sum_counted(-self._log_p.mean(dim=-1))

    def entropies(self) -> Float32[Tensor, " K"]:
        """Return the entropy of every prediction."""
        return self._sum_counted(-(self._log_p.exp() * self._log_p).sum(dim=-1))

    def usage_entropies(self) -> Float32[Tensor, " K"]:
        """Return the entropy of the mean prediction of each window, times its counted cells."""
        counts: Float32[Tensor, "B K"] = self._counted.sum(dim=1, dtype=torch.float32)
        shares = self._counted / counts.clamp(min=1).unsqueeze(1)
        mean: Float32[Tensor, "B K U"] = torch.einsum("bsku,bsk->bku", self._log_p.exp(), shares)
        # the gradient of p log p is infinite at 0; below the smallest float32 nothing is lost
        mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)
        return (counts * -(mean * mean.log()).sum(dim=-1)).sum(dim=0)

    def _sum_counted(self, values: Float32[Tensor, "B S K"]) -> Float32[Tensor, " K"]:
        return torch.where(self._counted, values, 0.0).sum(dim=(0, 1))
