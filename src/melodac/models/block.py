"""One transformer block: norm, sublayer, dropout, add; twice. Models only.

A further sublayer, such as reading a text, is one more such line between the two.
"""

from jaxtyping import Float
from torch import Tensor, nn

from melodac.models.attention import Attention
from melodac.models.cache import LayerCache
from melodac.models.config import LanguageModelConfig
from melodac.models.feedforward import FeedForward
from melodac.models.norm import RMSNorm
from melodac.models.rotary import RotaryTable


class Block(nn.Module):
    """Attention, then feed-forward, each added to a residual stream that nothing else touches."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim)
        self.attention = Attention(config)
        self.feedforward_norm = RMSNorm(config.dim)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "B S D"], rotary: RotaryTable, cache: LayerCache | None = None
    ) -> Float[Tensor, "B S D"]:
        """The residual stream after both sublayers."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
