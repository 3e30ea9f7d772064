"""One transformer block: norm, sublayer, dropout, add; twice, or three times."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from melodac.errors import ModelError
from melodac.models.attention import Attention, CrossAttention
from melodac.models.cache import LayerCache
from melodac.models.condition import Memory
from melodac.models.config import TransformerConfig
from melodac.models.layers import FeedForward, RMSNorm, RotaryTable


class Block(nn.Module):
    """Attention, cross-attention where there is a memory, then feed-forward.

    Each is added to a residual stream that nothing else touches.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim)
        self.attention = Attention(config)
        self.cross_attention = None
        if config.memory_dim:
            self.cross_attention_norm = RMSNorm(config.dim)
            self.cross_attention = CrossAttention(config)
        self.feedforward_norm = RMSNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        rotary: RotaryTable,
        cache: LayerCache | None = None,
        *,
        memory: Memory | None = None,
        seen: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """The residual stream after all sublayers.

        Args:
            x: The residual stream.
            rotary: Positions of the steps.
            cache: Earlier steps.
            memory: Texts to read; needed exactly if the block was built with a memory.
            seen: Steps that exist; if given, each step reads all of them instead of its past.

        Raises:
            ModelError: If there is no memory to read.
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache, seen))
        if self.cross_attention is not None:
            if memory is None:
                raise ModelError("a block that reads texts was given none: pass a memory")
            read = self.cross_attention(self.cross_attention_norm(x), memory, cache)
            x = x + self.dropout(read)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
