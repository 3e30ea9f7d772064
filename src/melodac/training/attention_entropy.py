"""How widely each layer looks: attention entropy as a share of its maximum, and the largest logit.

A layer that looks at all visible keys alike has 1, one that looks at a single key has 0, however
many keys there are. The number means nothing by itself: it starts near 1 and differs between
layers, so it is compared with its own value before training.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from melodac.models.attention import Attention
from melodac.models.block import Block
from melodac.models.language_model import LanguageModel
from melodac.models.layers import RotaryTable


class LayerAttention(NamedTuple):
    """Self-attention of one layer on given windows."""

    entropy_share: float
    """Entropy over ln(visible keys), averaged over heads and steps that see at least two keys."""
    max_logit: float
    """Largest logit of a visible key."""


@contextmanager
def watched_attention(model: LanguageModel) -> Generator[list[LayerAttention]]:
    """Measure the causal self-attention of every layer that runs inside the block, in order.

    The model computes as before: queries and keys are worked out a second time beside it. What
    reads a text is not watched.
    """
    seen: list[LayerAttention] = []

    def hook(attention: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(attention, Attention):  # for the type checker: hooks hear of any module
            x, rotary = args[:2]
            with torch.no_grad():
                seen.append(_measure(attention, x, rotary))

    handles = [
        block.attention.register_forward_pre_hook(hook)
        for block in model.blocks
        if isinstance(block, Block)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _measure(
    attention: Attention, x: Float[Tensor, "B S D"], rotary: RotaryTable
) -> LayerAttention:
    query, key, _ = attention.project(x, rotary)
    S = x.shape[1]
    hidden = torch.ones(S, S, dtype=torch.bool, device=x.device).triu(1)
    num_visible = torch.arange(2, S + 1, device=x.device)
    shares: list[float] = []
    largest: list[float] = []
    for one_query, one_key in zip(query, key, strict=True):  # item by item: H S S logits at once
        keys = one_key.repeat_interleave(attention.num_heads // attention.num_kv_heads, dim=0)
        logits = one_query.float() @ keys.float().transpose(-1, -2) / math.sqrt(attention.head_dim)
        logits = logits.masked_fill(hidden, -torch.inf)
        weights = logits.softmax(dim=-1)
        entropies = -torch.xlogy(weights, weights).sum(dim=-1)
        shares.append(float((entropies[:, 1:] / num_visible.log()).double().mean()))
        largest.append(float(logits.max()))
    return LayerAttention(sum(shares) / len(shares), max(largest))
