"""Cross-attention: each step of codes reads the whole text, or the null vector.

Grouped queries and normalised queries and keys as in self-attention; no positions, since a byte of
the text is not before or after a step of the music. Models only.
"""

from jaxtyping import Float
from torch import Tensor, nn

from melodac.models.attention import attend_to_seen
from melodac.models.cache import LayerCache
from melodac.models.config import TransformerConfig
from melodac.models.memory import LayerMemory, Memory
from melodac.models.norm import RMSNorm


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
