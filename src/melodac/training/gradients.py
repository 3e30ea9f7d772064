"""The gradients of one update, part by part, and their norm; no weight is changed here.

Each part's objective is divided by the size of the whole update, so parts of uneven size weigh what
they hold, and accumulating or sharing among processes equals one large batch.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from melodac.models.language_model import LanguageModel
from melodac.training.compute import Compute
from melodac.training.config import TrainConfig
from melodac.training.corruption import Corruption
from melodac.training.distributed import Ranks
from melodac.training.objective import Objective
from melodac.training.seeding import seeded
from melodac.training.update import UpdateInput


class LossSums(NamedTuple):
    """Nats and cells of a whole update, unsmoothed and unweighted."""

    nats: Float[Tensor, " K"]
    counts: Int64[Tensor, " K"]


class GradientTaker:
    """Runs the model forward and backward."""

    def __init__(
        self, model: LanguageModel, config: TrainConfig, *, ranks: Ranks, compute: Compute
    ) -> None:
        """Wrap the model for the processes and the switches of a run.

        Args:
            model: The model in training; cut in place by fsdp.
            config: The run.
            ranks: The processes that share an update.
            compute: How numbers are computed.
        """
        self._model = model
        self._config = config
        self._ranks = ranks
        self._compute = compute
        self._device = next(model.parameters()).device
        self._wrapped: nn.Module = ranks.wrap(model)
        self._forward = compute.prepare(self._wrapped)
        self._objective = Objective(config.objective, model.config.num_codebooks)
        self.corruption = Corruption(config.corruption, config.seed)

    def take(self, update: int, data: UpdateInput) -> LossSums:
        """Add the gradients of an update to those of the weights, which must be none."""
        nats: list[Tensor] = []
        counts: list[Tensor] = []
        normaliser = self._objective.normaliser(data.num_frames)
        self._model.train()
        for part in data.parts:
            is_last = part is data.parts[-1]
            with self._compute.autocast():
                read = self.corruption.inputs(self._model, part, update=update)
            with (
                seeded(self._config.seed, "dropout", update, part.index, device=self._device),
                self._ranks.accumulating(self._wrapped, is_last=is_last),
            ):
                # logits without a name are freed as soon as the backward pass allows
                measured = self._objective.measure(
                    self._forward(read, part.condition), part.sequence, part.counted, update=update
                )
                self._compute.backward(measured.objective / normaliser)
            nats.append(measured.nats.detach())
            counts.append(measured.counts)
        self._compute.unscale(self._model)
        return LossSums(
            self._ranks.sum(torch.stack(nats).sum(dim=0)),
            self._ranks.sum(torch.stack(counts).sum(dim=0)),
        )

    def norm(self) -> Tensor:
        """Norm of all gradients together, over all processes."""
        return whole_norm([grad for _, grad in self._gradients()])

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients down to `clip_norm` where they exceed it."""
        weights = [weight for weight, _ in self._gradients()]
        clip_grads_with_norm_(weights, self._config.clip_norm, norm)

    def _gradients(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (weight, weight.grad) for weight in self._model.parameters() if weight.grad is not None
        ]


def whole_norm(tensors: list[Tensor]) -> Tensor:
    """Norm of some tensors together, of all shares where they are cut."""
    norm = get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
