"""Self-attention, and cross-attention from the codes to the text.

Grouped queries, normalised queries and keys, rotary positions in self-attention. The scale is
always 1 / sqrt(head width): with unit-size queries and keys the attention logits start with a
standard deviation near 1, whatever the width. Cross-attention reads the whole text or the null
vector and has no positions, since a byte of the text has no place in the order of the steps.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from melodac.models.cache import LayerCache
from melodac.models.condition import LayerMemory, Memory
from melodac.models.config import TransformerConfig
from melodac.models.layers import RMSNorm, RotaryTable, rotate


class Attention(nn.Module):
    """Self-attention of a decoder block; causal unless told which steps exist.

    Queries and keys share one norm scale: only their product matters, so two would be redundant,
    and one call serves both. Attention weights have no dropout: it forces the slow path of the
    fused kernel (measured: 2 to 4 times slower), and the sublayer's output has dropout anyway.

    Source:
        Grouped queries: Ainslie et al. 2023 (arXiv:2305.13245); normalised queries and keys: Henry
        et al. 2020 (arXiv:2010.04245), here with RMSNorm.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.query_key_value = nn.Linear(config.dim, config.dim + 2 * kv_dim, bias=False)
        self.query_key_norm = RMSNorm(config.head_dim)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        rotary: RotaryTable,
        cache: LayerCache | None = None,
        seen: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Return what each step reads from its past; with a cache, the cached steps included.

        Args:
            x: Normalised residual stream.
            rotary: Positions of the steps.
            cache: Earlier steps.
            seen: Steps that exist; if given, attention is over all of them, not only the past.
        """
        query, key, value = self.project(x, rotary)
        if seen is not None:
            read = attend_to_seen(query, key, value, seen)
        else:
            if cache is not None:
                key, value = cache.extend(key, value)
            read = attend(query, key, value)
        return self.output(read.transpose(1, 2).flatten(2))

    def project(
        self, x: Float[Tensor, "B S D"], rotary: RotaryTable
    ) -> tuple[Float[Tensor, "B H S E"], Float[Tensor, "B G S E"], Float[Tensor, "B G S E"]]:
        """Return queries, keys and values by head; queries and keys normalised and rotated."""
        heads = self.query_key_value(x).view(*x.shape[:2], -1, self.head_dim)
        num_turned = self.num_heads + self.num_kv_heads
        turned = rotate(self.query_key_norm(heads[:, :, :num_turned]), rotary)
        query, key = turned[:, :, : self.num_heads], turned[:, :, self.num_heads :]
        value = heads[:, :, num_turned:]
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def attend(
    query: Float[Tensor, "B H S E"],
    key: Float[Tensor, "B G M E"],
    value: Float[Tensor, "B G M E"],
) -> Float[Tensor, "B H S E"]:
    """Apply causal attention to a whole sequence, or to the newest step over all steps so far.

    Args:
        query: Query heads of all M steps, or of the last step only.
        key: Key heads; head g serves H / G consecutive query heads.
        value: Value heads, shared like the keys.
    """
    if query.shape[2] == 1:
        # The query heads of a group become rows of one attention: no key is repeated, and the last
        # step sees every step, so no mask is needed.
        grouped = query.reshape(*key.shape[:2], -1, query.shape[-1])
        return functional.scaled_dot_product_attention(grouped, key, value).view(query.shape)
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=key.shape[1] != query.shape[1]
    )


def attend_to_seen(
    query: Float[Tensor, "B H S E"],
    key: Float[Tensor, "B G M E"],
    value: Float[Tensor, "B G M E"],
    seen: Bool[Tensor, "B M"],
) -> Float[Tensor, "B H S E"]:
    """Attend from every query to all keys that its item sees, before or after it.

    Args:
        query: Query heads.
        key: Key heads; head g serves H / G consecutive query heads.
        value: Value heads, shared like the keys.
        seen: Keys that exist; at least one per item, as a softmax over none is NaN.
    """
    # Not causal, so the query heads of a group become rows of one attention: no key is repeated.
    grouped = query.reshape(*key.shape[:2], -1, query.shape[-1])
    mask = seen[:, None, None]
    read = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    return read.view(query.shape)


class CrossAttention(nn.Module):
    """Cross-attention from each step to the encoded text."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.num_kv_heads * config.head_dim
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key_value = nn.Linear(config.memory_dim, 2 * kv_dim, bias=False)
        self.query_key_norm = RMSNorm(config.head_dim)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "B S D"], memory: Memory, cache: LayerCache | None = None
    ) -> Float[Tensor, "B S D"]:
        """Return what each step reads; with a cache, keys and values are computed only once."""
        if cache is None:
            layer = self.project(memory)
        else:
            if cache.memory is None:
                cache.memory = self.project(memory)
            layer = cache.memory
        heads = self.query(x).view(*x.shape[:2], -1, self.head_dim)
        query = self.query_key_norm(heads).transpose(1, 2)
        read = attend_to_seen(query, layer.keys, layer.values, layer.seen)
        return self.output(read.transpose(1, 2).flatten(2))

    def project(self, memory: Memory) -> LayerMemory:
        """Return the text's keys, normalised, and values, by head."""
        heads = self.key_value(memory.states).view(*memory.states.shape[:2], -1, self.head_dim)
        key, value = heads.chunk(2, dim=2)
        return LayerMemory(
            self.query_key_norm(key).transpose(1, 2), value.transpose(1, 2), memory.seen
        )
