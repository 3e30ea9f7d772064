"""Named model sizes, from two CPU cores to a large GPU, as one table.

A name fixes widths and depth only; the number of codebooks belongs to the data and dropout to the
run.
"""

from types import MappingProxyType
from typing import NamedTuple

from melodac.errors import ConfigError
from melodac.models.config import Embedding, LanguageModelConfig

ROPE_BASE = 10_000.0
"""Slowest rotary wave of every named size, in steps per radian.

Source:
    Su et al. 2021 (arXiv:2104.09864), sec. 3.3.
"""


TEXT_BYTES = 512
"""Longest text of every named size: some eighty words, or thirty tags."""

TEXT_LAYERS = 2
"""Blocks of the text encoder of every named size: words from bytes, then phrases from words."""


class Shape(NamedTuple):
    """Widths and depth that a size name stands for."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ff_dim: int
    text_dim: int
    """Width of the text encoder, in a model that reads texts."""


# ff_dim is 8/3 of dim, rounded up to a multiple of 64: SwiGLU has three matrices where a plain
# feed-forward of 4 dim has two, so the parameters are about the same.
SIZES = MappingProxyType({
    "nano": Shape(dim=192, num_layers=4, num_heads=6, num_kv_heads=2, ff_dim=512, text_dim=128),
    "micro": Shape(dim=384, num_layers=8, num_heads=6, num_kv_heads=2, ff_dim=1024, text_dim=192),
    "small": Shape(dim=512, num_layers=12, num_heads=8, num_kv_heads=4, ff_dim=1408, text_dim=256),
    "base": Shape(dim=768, num_layers=16, num_heads=12, num_kv_heads=4, ff_dim=2048, text_dim=384),
    "large": Shape(dim=896, num_layers=20, num_heads=14, num_kv_heads=7, ff_dim=2432, text_dim=448),
    "xl": Shape(dim=2048, num_layers=32, num_heads=16, num_kv_heads=8, ff_dim=5504, text_dim=512),
})
"""Every size by name: 3.4 M, 16 M, 40 M, 108 M, 187 M and 1.5 B parameters with 9 codebooks,
1.8 M to 19 M more with learned tables for both ends."""


def build_config(
    size: str,
    *,
    num_codebooks: int,
    dropout: float,
    reads_text: bool = False,
    embedding: Embedding = "learned",
    vector_dim: int = 0,
) -> LanguageModelConfig:
    """Complete a named size with what the data and the run decide.

    Args:
        size: A name of `SIZES`.
        num_codebooks: Rows of a sequence: codebooks times channels.
        dropout: Share of activations dropped in training.
        reads_text: Whether the model has a text encoder and cross-attention.
        embedding: Where the rows of codes come from.
        vector_dim: Numbers of a code's vector, with embedding codec.

    Raises:
        ConfigError: If the name is unknown.
    """
    if size not in SIZES:
        raise ConfigError(f"unknown model size {size!r}: allowed are {', '.join(SIZES)}")
    shape = SIZES[size]._asdict()
    text_dim = shape.pop("text_dim")
    if reads_text:
        shape |= {"memory_dim": text_dim, "text_bytes": TEXT_BYTES, "text_layers": TEXT_LAYERS}
    return LanguageModelConfig(
        num_codebooks=num_codebooks,
        head_dim=shape["dim"] // shape["num_heads"],
        dropout=dropout,
        rope_base=ROPE_BASE,
        embedding=embedding,
        vector_dim=vector_dim,
        **shape,
    )
