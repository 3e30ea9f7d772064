"""The SwiGLU feed-forward sublayer. Models only."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from melodac.models.config import TransformerConfig


class FeedForward(nn.Module):
    """Each step on its own: a gated widening and the way back.

    Source:
        Shazeer 2020 (arXiv:2002.05202), eq. 6.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.ff_dim, bias=False)
        self.down = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """The sublayer's contribution to the residual stream."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)
