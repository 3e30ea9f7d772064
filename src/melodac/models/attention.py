"""Self-attention, and cross-attention from the codes to the text.

Grouped queries, normalised queries and keys, rotary positions in self-attention. The scale is
always the standard one, 1 / sqrt(head width): with unit-size queries and keys the logits start with
a standard deviation near 1, whatever the width. Cross-attention reads the whole text, or the null
vector, and has no positions, since a byte of the text is not before or after a step of the music.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from melodac.models.cache import LayerCache
from melodac.models.condition import LayerMemory, Memory
from melodac.models.config import TransformerConfig
from melodac.models.layers import RMSNorm, RotaryTable, rotate


class Attention(nn.Module):
    """Each step reads itself and the steps before it.

    Queries and keys share one norm scale: only their product is ever seen, and one call serves
    both. There is no dropout on the weights: it forces the slow path of the fused kernel (measured:
    2 to 4 times the time of attention), and the sublayer's output is dropped anyway.

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
        """What each step reads from the past; with a cache, the past includes what it holds.

        Args:
            x: What asks and answers.
            rotary: Positions of the steps.
            cache: Earlier steps.
            seen: Steps that exist; if given, each step reads all of them instead of its past.
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
        """Queries, keys and values by head; the first two normalised and turned."""
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
    """Causal softmax attention of a whole sequence, or of the newest step on all steps so far.

    Args:
        query: Heads that ask, of M steps or of the last one alone.
        key: Heads that answer; head g answers H / G queries in a row.
        value: What they answer.
    """
    if query.shape[2] == 1:
        # The queries of a group become rows of one attention: nothing is repeated or masked.
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
    """Softmax attention of every query on all keys that its item sees, before or after it.

    Args:
        query: Heads that ask.
        key: Heads that answer; head g answers H / G queries in a row.
        value: What they answer.
        seen: Keys that exist; at least one an item.
    """
    # Without a past the queries of a group are rows of one attention: nothing is repeated.
    grouped = query.reshape(*key.shape[:2], -1, query.shape[-1])
    mask = seen[:, None, None]
    read = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask)
    return read.view(query.shape)


class CrossAttention(nn.Module):
    """Each step reads a memory that does not depend on the steps."""

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
        """What each step reads; with a cache, the memory of its first call is kept and used."""
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
        """Keys, normalised, and values by head."""
        heads = self.key_value(memory.states).view(*memory.states.shape[:2], -1, self.head_dim)
        key, value = heads.chunk(2, dim=2)
        return LayerMemory(
            self.query_key_norm(key).transpose(1, 2), value.transpose(1, 2), memory.seen
        )
