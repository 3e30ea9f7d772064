"""How much of a clip's codes was heard before in it.

Judged on codes, never on audio: autocorrelation calls every held note a loop.
"""

from jaxtyping import Int
from torch import Tensor

NGRAM_FRAMES = 8
"""Length of an n-gram; eight frames of 1024 codes do not come back by chance."""


def repeated_ngram_share(codes: Int[Tensor, "C K T"]) -> float | None:
    """Share of n-grams of codebook 0 that already occurred earlier in the clip.

    Example:
        >>> import torch
        >>> loop = torch.tensor([1, 2, 3, 4]).repeat(25)
        >>> round(repeated_ngram_share(loop[None, None]), 2)
        0.96

    Args:
        codes: Codes of one clip; a stereo n-gram counts as repeated if both channels repeat.

    Returns:
        The share, or None with fewer than two n-grams.
    """
    num_ngrams = codes.shape[2] - NGRAM_FRAMES + 1
    if num_ngrams < 2:
        return None
    ngrams = codes[:, 0].unfold(1, NGRAM_FRAMES, 1).transpose(0, 1).flatten(start_dim=1)
    distinct = {ngram.tobytes() for ngram in ngrams.numpy(force=True)}
    return 1.0 - len(distinct) / num_ngrams
