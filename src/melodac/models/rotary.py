"""Rotary positions: each pair of channels turns by an angle that grows with the step.

The dot product of a turned query and a turned key depends on their distance only. Models only.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor


class RotaryTable(NamedTuple):
    """Cosine and signed sine of every step and channel, in float32 whatever the model's type."""

    cosine: Float32[Tensor, "S E"]
    sine: Float32[Tensor, "S E"]

    def steps(self, start: int, stop: int) -> "RotaryTable":
        """The rows of the steps from `start` up to, not including, `stop`."""
        return RotaryTable(self.cosine[start:stop], self.sine[start:stop])


def build_rotary_table(
    num_steps: int, *, head_dim: int, base: float, device: torch.device
) -> RotaryTable:
    """Angles of `num_steps` steps: channel e is paired with e + head_dim / 2.

    Args:
        num_steps: Rows of the table.
        head_dim: Width of one head; even.
        base: Ratio of the slowest to the fastest wave.
        device: Where the table is to live.

    Source:
        RoFormer, Su et al. 2021 (arXiv:2104.09864), equation 15;
        pairs are halves here, not neighbours.
    """
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    steps = torch.arange(num_steps, device=device, dtype=torch.float32)
    angles = torch.outer(steps, base**-exponents)
    cosine, sine = angles.cos(), angles.sin()
    return RotaryTable(torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1))


def rotate(x: Float[Tensor, "B S H E"], table: RotaryTable) -> Float[Tensor, "B S H E"]:
    """Turn every head by the angle of its step; the result keeps the type of `x`."""
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat([second, first], dim=-1)
    turned = x * table.cosine.unsqueeze(1) + swapped * table.sine.unsqueeze(1)
    return turned.type_as(x)
