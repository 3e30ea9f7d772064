"""The exponential moving average of the weights, kept as a model of its own.

Being a second model, it can be validated and saved without touching the one in training.
"""

import copy

import torch

from melodac.models.language_model import LanguageModel


def decay_at(update: int, decay: float) -> float:
    """Share of the average that survives an update, raised slowly to `decay`.

    Without the warm-up a short run would still average in its random start.

    Source:
        TensorFlow `ExponentialMovingAverage(num_updates=...)`: min(decay, (1 + u) / (10 + u)).
    """
    return min(decay, (1 + update) / (10 + update))


class ExponentialAverage:
    """A model whose weights trail those of the model in training."""

    def __init__(self, model: LanguageModel, decay: float) -> None:
        """Start as an exact copy.

        Args:
            model: The model in training.
            decay: Final share that survives an update, in [0, 1); 0 makes the average the model.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, model: LanguageModel, update: int) -> None:
        """Move the average towards the model after the update of that number."""
        share = 1.0 - decay_at(update, self.decay)
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, share)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
