"""Sampling of codes from logits, as pure functions: temperature, top-k, top-p and one draw.

A draw inverts the cumulative distribution at one uniform number per cell. The number comes from the
item's own generator, so an item does not depend on the rest of its batch.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor

from melodac.config import Section
from melodac.errors import SamplingError


class SamplingSettings(Section):
    """Settings of sampling, applied in this order: temperature, top-k, top-p."""

    temperature: NonNegativeFloat
    """Divides the logits; 0 always takes the likeliest code."""
    top_k: NonNegativeInt
    """Codes left to draw from, the likeliest ones; 0 leaves all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of probability left to draw from, the likeliest codes first; 1 leaves all."""


def sample_codes(
    logits: Float[Tensor, "B K U"],
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    generators: Sequence[torch.Generator],
) -> Int64[Tensor, "B K"]:
    """Sample one code per item and codebook.

    Args:
        logits: Any type; the arithmetic is float32 and the cumulative sum float64.
        temperature: Divides the logits; 0 takes the likeliest code and draws nothing.
        top_k: Codes left to draw from; 0 leaves all.
        top_p: Share of probability left to draw from, above 0; 1 leaves all.
        generators: One per item, on the CPU; each gives one number per codebook.

    Raises:
        SamplingError: If a setting is out of range, a generator is missing or a logit is not
            finite.
    """
    _check_settings(temperature, top_k, top_p)
    B, K, _ = logits.shape
    if len(generators) != B:
        raise SamplingError(f"need one generator per item: got {len(generators)} for {B} items")
    logits = logits.float()
    largest, likeliest = logits.max(-1)
    _check_finite(largest)
    if temperature == 0:
        return likeliest
    # The largest becomes 0 before the division, so that no temperature can overflow.
    logits = (logits - largest.unsqueeze(-1)) / temperature
    kept = keep_top_p(keep_top_k(logits, top_k), top_p)
    # one generator per item, on the CPU: the numbers depend neither on the batch nor on the device
    uniforms = torch.stack([
        torch.rand(K, generator=generator, dtype=torch.float64) for generator in generators
    ])
    return draw(kept, uniforms.to(logits.device))


def keep_top_k(logits: Float[Tensor, "... U"], top_k: int) -> Float[Tensor, "... U"]:
    """Set all but exactly the `top_k` largest logits to minus infinity; 0 keeps all.

    Example:
        >>> keep_top_k(torch.tensor([0.0, 3.0, 1.0]), 2)
        tensor([-inf, 3., 1.])
    """
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    values, codes = logits.topk(top_k, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, codes, values)


def keep_top_p(logits: Float[Tensor, "... U"], top_p: float) -> Float[Tensor, "... U"]:
    """Keep the fewest likeliest codes that hold `top_p` of the probability; others get -infinity.

    The likeliest code always stays.

    Source:
        Holtzman et al. 2020 (arXiv:1904.09751), section 3.1.

    Example:
        >>> keep_top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
        tensor([0.5000, 0.3000, 0.0000])
    """
    if top_p >= 1:
        return logits
    ordered, codes = logits.sort(dim=-1, descending=True)
    probabilities = ordered.double().softmax(-1)
    # a code stays if the likelier ones together hold less than top_p; the likeliest has 0 before it
    held_before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill(held_before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, codes, ordered)


def draw(logits: Float[Tensor, "... U"], uniforms: Float64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Return the code at which the cumulative probability passes a uniform number.

    A logit that is NaN or plus infinity raises `SamplingError`.

    Args:
        logits: Not normalised; minus infinity is never drawn.
        uniforms: In [0, 1), one per draw.

    Example:
        >>> logits = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]]).log()
        >>> draw(logits, torch.tensor([0.49, 0.5], dtype=torch.float64))
        tensor([0, 2])
    """
    cumulative = logits.softmax(-1).double().cumsum(-1)
    total = cumulative[..., -1:]
    _check_finite(total)
    # Strictly past the number, in terms of the sum as rounded: a code of probability 0 adds nothing
    # to the sum, so it is never the first past it, not even at the ends.
    return torch.searchsorted(cumulative, uniforms.unsqueeze(-1) * total, right=True).squeeze(-1)


def _check_settings(temperature: float, top_k: int, top_p: float) -> None:
    if not 0 <= temperature < float("inf"):
        raise SamplingError(f"temperature must be finite and >= 0: got {temperature}")
    if top_k < 0:
        raise SamplingError(f"top_k must be >= 0, where 0 keeps all codes: got {top_k}")
    if not 0 < top_p <= 1:
        raise SamplingError(f"top_p must be above 0 and at most 1: got {top_p}")


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise SamplingError(
            "a logit is NaN or infinite, so there is nothing to sample from: the weights are "
            "damaged or training diverged; use an earlier checkpoint"
        )
