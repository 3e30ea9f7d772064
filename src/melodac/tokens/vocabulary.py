"""The numbers a cell of a token sequence may hold; any module may import it.

A cell holds a code of the codec or one of two special tokens. The specials lie above the codes, so
a head that emits `CODEBOOK_SIZE` logits cannot sample one.
"""

from jaxtyping import Bool, Int
from torch import Tensor

CODEBOOK_SIZE = 1024
"""Codes of one codebook: 0 .. 1023."""

BOS = 1024
"""Cell that lies before the first frame of its window."""

PAD = 1025
"""Cell past the end of the track, or one that a flat pattern leaves empty."""

VOCABULARY_SIZE = 1026
"""Codes and special tokens of one codebook."""

FILL = 65535
"""What a missing chunk of a store reads as; on disk only, never given to a model."""


def is_code(tokens: Int[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """True where a cell holds a code of the codec and no special token.

    Example:
        >>> import torch
        >>> is_code(torch.tensor([0, 1023, BOS, PAD, FILL, -1]))
        tensor([ True,  True, False, False, False, False])
    """
    return (tokens >= 0) & (tokens < CODEBOOK_SIZE)
