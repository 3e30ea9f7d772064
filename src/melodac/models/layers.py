"""Parts of a block: RMSNorm, rotary positions, SwiGLU feed-forward.

RMSNorm divides by the root mean square and multiplies by a learned scale. Under rotary positions
each pair of channels is rotated by an angle that grows with the step, so the dot product of a
rotated query and a rotated key depends on their distance only.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from melodac.models.config import TransformerConfig

EPSILON = 1e-6
"""Term added to the mean square; far below that of any activation, far above float32 rounding."""


class RMSNorm(nn.Module):
    """Norm that scales the last axis to unit root mean square, then by a learned factor a channel.

    Source:
        Zhang and Sennrich 2019 (arXiv:1910.07467), eq. 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """Return the normalised activations, in the type of the input."""
        # the fused kernel needs one type: under autocast a copy of the float32 scale is cast
        weight = self.weight.to(x.dtype)
        return functional.rms_norm(x, weight.shape, weight, EPSILON)


class RotaryTable(NamedTuple):
    """Cosine and signed sine of every step and channel, float32 whatever the model's type."""

    cosine: Float32[Tensor, "S E"]
    sine: Float32[Tensor, "S E"]

    def steps(self, start: int, stop: int) -> "RotaryTable":
        """Return the rows of the steps from `start` up to, not including, `stop`."""
        return RotaryTable(self.cosine[start:stop], self.sine[start:stop])


def build_rotary_table(
    num_steps: int, *, head_dim: int, base: float, device: torch.device
) -> RotaryTable:
    """Build the angles of `num_steps` steps; channel e is paired with e + head_dim / 2.

    Args:
        num_steps: Rows of the table.
        head_dim: Width of one head; even.
        base: Ratio of the slowest to the fastest wavelength.
        device: Device of the table.

    Source:
        RoFormer, Su et al. 2021 (arXiv:2104.09864), equation 15;
        pairs are halves here, not neighbours.
    """
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    steps = torch.arange(num_steps, device=device, dtype=torch.float32)
    angles = torch.outer(steps, base**-exponents)
    cosine, sine = angles.cos(), angles.sin()
    # the sign of the rotation's sine is stored here, so `rotate` is two products and a sum
    return RotaryTable(torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1))


def rotate(x: Float[Tensor, "B S H E"], table: RotaryTable) -> Float[Tensor, "B S H E"]:
    """Rotate every head by the angle of its step; the result keeps the type of `x`."""
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat([second, first], dim=-1)
    turned = x * table.cosine.unsqueeze(1) + swapped * table.sine.unsqueeze(1)
    return turned.type_as(x)


class FeedForward(nn.Module):
    """Gated feed-forward sublayer (SwiGLU).

    Source:
        Shazeer 2020 (arXiv:2002.05202), eq. 6.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.ff_dim, bias=False)
        self.down = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Return the sublayer's contribution to the residual stream."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


@contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None]:
    """Switch dropout off in a with-block; afterwards the model is in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
