"""The gradients of one update, part by part, and their norm; no weight is changed here.

Each part's objective is divided by the size of the whole update, so parts of uneven size weigh what
they hold and accumulating equals one large batch. Only the trainer imports this file.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from melodac.models.language_model import LanguageModel
from melodac.training.config import TrainConfig
from melodac.training.loss import per_codebook_loss
from melodac.training.seeding import seeded
from melodac.training.update import UpdateInput


class LossSums(NamedTuple):
    """Nats and cells of a whole update, unsmoothed and unweighted."""

    nats: Float[Tensor, " K"]
    counts: Int64[Tensor, " K"]


class GradientTaker:
    """Runs the model forward and backward."""

    def __init__(self, model: LanguageModel, config: TrainConfig) -> None:
        self._model = model
        self._config = config
        self._device = next(model.parameters()).device

    def take(self, update: int, data: UpdateInput) -> LossSums:
        """Add the gradients of an update to those of the weights, which must be none."""
        nats: list[Tensor] = []
        counts: list[Tensor] = []
        total = data.num_frames * self._model.config.num_codebooks
        self._model.train()
        for part in data.parts:
            with seeded(self._config.seed, "dropout", update, part.index, device=self._device):
                logits = self._model(part.sequence)
                part_nats, part_counts = per_codebook_loss(logits, part.sequence, part.counted)
                (part_nats.sum() / total).backward()  # pyright: ignore[reportUnknownMemberType]  torch
            nats.append(part_nats.detach())
            counts.append(part_counts)
        return LossSums(torch.stack(nats).sum(dim=0), torch.stack(counts).sum(dim=0))

    def norm(self) -> Tensor:
        """Norm of all gradients together."""
        return get_total_norm([grad for _, grad in self._gradients()])

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients down to `clip_norm` where they exceed it."""
        clip_grads_with_norm_(
            [weight for weight, _ in self._gradients()], self._config.clip_norm, norm
        )

    def _gradients(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (weight, weight.grad) for weight in self._model.parameters() if weight.grad is not None
        ]
