"""Transformer block: norm, sublayer, dropout, add, for each of two or three sublayers."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from melodac.errors import ModelError
from melodac.models.attention import Attention, CrossAttention
from melodac.models.cache import LayerCache
from melodac.models.condition import Memory
from melodac.models.config import TransformerConfig
from melodac.models.layers import FeedForward, RMSNorm, RotaryTable


class Block(nn.Module):
    """Pre-norm block: attention, cross-attention if the model reads text, feed-forward.

    Sublayers only add to the residual stream; no norm sits on the stream itself.
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
        """Return the residual stream after all sublayers.

        Args:
            x: The residual stream.
            rotary: Positions of the steps.
            cache: Earlier steps.
            memory: Encoded texts; needed exactly if the block has cross-attention.
            seen: Steps that exist; if given, attention is over all of them, not only the past.

        Raises:
            ModelError: If the block has cross-attention and no texts were given.
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache, seen))
        if self.cross_attention is not None:
            if memory is None:
                raise ModelError("a block that reads texts was given none: pass a memory")
            read = self.cross_attention(self.cross_attention_norm(x), memory, cache)
            x = x + self.dropout(read)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
