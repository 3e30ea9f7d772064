"""RMSNorm: divide by the root mean square, multiply by a learned scale.

Models only.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-6
"""Added to the mean square; far below that of any activation, far above float32 rounding."""


class RMSNorm(nn.Module):
    """Scale the last axis to unit root mean square, then by one learned factor a channel.

    Source:
        Zhang and Sennrich 2019 (arXiv:1910.07467), eq. 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Normalised activations, in the type they came in."""
        # the kernel takes one type only: under autocast the scale follows, itself still in float32
        weight = self.weight.to(x.dtype)
        return functional.rms_norm(x, weight.shape, weight, EPSILON)
