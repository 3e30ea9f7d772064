"""A small encoder of texts as bytes: any language, no vocabulary, nothing to download.

Bytes are embedded and read each other in both directions; the result is the memory of
cross-attention, behind one learned vector for items without a text. Models only.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from melodac.models.block import Block
from melodac.models.condition import PADDING
from melodac.models.config import BYTE_ROWS, TransformerConfig
from melodac.models.memory import Memory
from melodac.models.norm import RMSNorm
from melodac.models.rotary import build_rotary_table


class TextEncoder(nn.Module):
    """Blocks without a past, over bytes."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.byte_table = nn.Embedding(BYTE_ROWS, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.last_norm = RMSNorm(config.dim)
        self.null = nn.Parameter(torch.zeros(config.dim))

    def forward(self, text: Int[Tensor, "B Y"]) -> Memory:
        """The null vector, then one slot a byte; and which of them each item sees."""
        is_byte = text != PADDING
        is_null = ~is_byte.any(dim=1, keepdim=True)
        rotary = build_rotary_table(
            text.shape[1],
            head_dim=self.config.head_dim,
            base=self.config.rope_base,
            device=text.device,
        )
        x = self.byte_table(text)
        # a row without bytes reads its padding: attention to nothing would be 0 / 0, and nobody
        # sees the result
        readable = is_byte | is_null
        for block in self.blocks:
            x = block(x, rotary, seen=readable)
        encoded = self.last_norm(x)
        null = self.null.type_as(encoded).expand(len(text), 1, -1)
        return Memory(torch.cat([null, encoded], dim=1), torch.cat([is_null, is_byte], dim=1))
