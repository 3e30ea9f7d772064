"""`LanguageModelConfig`, the shape of a model; its exact parameter count; the named sizes.

Everything that decides the tensors of a checkpoint is here; a shape that cannot work is refused
before anything is built. The name of a size fixes widths and depth only; the number of codebooks
belongs to the data and dropout to the run.
"""

from types import MappingProxyType
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from melodac.config import Section
from melodac.errors import ConfigError
from melodac.tokens.vocabulary import CODEBOOK_SIZE, VOCABULARY_SIZE

Embedding = Literal["learned", "tied", "codec"]
"""Source of the rows of codes: two learned tables; one learned table tied at both ends of the
model; or the codec's code vectors plus one learned table."""

BYTE_ROWS = 257
"""Number of values of a text's cell: 256 bytes and, last, padding."""


TEXT_WIDENING = 3
"""Feed-forward width of the text encoder over its own width; 8/3 would match an ungated factor of
4, and 3 keeps it a whole number."""


MAX_VECTOR_DIM = 32
"""Largest width of a code vector in a model; wider vectors are reduced to their principal
directions."""


class TransformerConfig(Section):
    """Shape of a stack of transformer blocks."""

    dim: PositiveInt
    """Width of the residual stream."""
    num_layers: PositiveInt
    """Blocks, each of attention, feed-forward and, with `memory_dim`, cross-attention."""
    num_heads: PositiveInt
    """Query heads; `num_heads * head_dim` is `dim`."""
    num_kv_heads: PositiveInt
    """Key/value heads; divides `num_heads`."""
    head_dim: PositiveInt
    """Width of one head; even, since rotary positions rotate pairs of channels."""
    ff_dim: PositiveInt
    """Width inside the feed-forward sublayer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of activations dropped after the embedding and after each sublayer, in training."""
    rope_base: PositiveFloat
    """Slowest rotary wave, in steps per radian."""
    memory_dim: NonNegativeInt = 0
    """Width of the encoded text for cross-attention; 0: no cross-attention."""

    @property
    def num_sublayers(self) -> int:
        """Number of sublayers, each of which adds to the residual stream once."""
        return self.num_layers * (3 if self.memory_dim else 2)

    @model_validator(mode="after")
    def _heads_fill_the_width(self) -> "TransformerConfig":
        # Heads narrower than the stream are a bottleneck that the loss does not show.
        if self.num_heads * self.head_dim != self.dim:
            raise ValueError(
                f"num_heads ({self.num_heads}) times head_dim ({self.head_dim}) must equal "
                f"dim ({self.dim}): got {self.num_heads * self.head_dim}"
            )
        return self

    @model_validator(mode="after")
    def _kv_heads_divide_heads(self) -> "TransformerConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})"
            )
        return self

    @model_validator(mode="after")
    def _heads_pair_up(self) -> "TransformerConfig":
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even: got {self.head_dim}")
        return self


class LanguageModelConfig(TransformerConfig):
    """Shape of a decoder-only transformer over delayed codes, optionally conditioned on text."""

    num_codebooks: PositiveInt
    """Rows of a sequence: codebooks times channels."""
    text_bytes: NonNegativeInt = 0
    """Longest text in UTF-8 bytes; 0: the model is not conditioned and has no text encoder."""
    text_layers: NonNegativeInt = 0
    """Blocks of the text encoder, each `memory_dim` wide."""
    embedding: Embedding = "learned"
    """Source of the rows of codes."""
    vector_dim: NonNegativeInt = 0
    """Width of a code's vector inside the model; above 0 exactly if `embedding` is codec."""

    @model_validator(mode="after")
    def _vectors_have_a_width(self) -> "LanguageModelConfig":
        if (self.embedding == "codec") != bool(self.vector_dim):
            raise ValueError(
                f"vector_dim must be above 0 if embedding is codec and 0 if not: got "
                f"{self.vector_dim} with {self.embedding}"
            )
        return self

    @model_validator(mode="after")
    def _text_is_whole_or_absent(self) -> "LanguageModelConfig":
        parts = (self.text_bytes, self.text_layers, self.memory_dim)
        if any(parts) and not all(parts):
            raise ValueError(
                "text_bytes, text_layers and memory_dim must all be above 0 or all be 0: got "
                f"{self.text_bytes}, {self.text_layers} and {self.memory_dim}"
            )
        if self.memory_dim % self.head_dim:
            raise ValueError(
                f"memory_dim ({self.memory_dim}) must be a multiple of head_dim ({self.head_dim})"
            )
        return self

    def text_encoder(self) -> TransformerConfig:
        """Return the shape of the text encoder: same head width, fewer heads."""
        num_heads = self.memory_dim // self.head_dim
        return TransformerConfig(
            dim=self.memory_dim,
            num_layers=self.text_layers,
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_dim=self.head_dim,
            ff_dim=TEXT_WIDENING * self.memory_dim,
            dropout=self.dropout,
            rope_base=self.rope_base,
        )


def vector_dim(width: int) -> int:
    """Return the width of a code's vector in the model, given its width in the codec."""
    return min(width, MAX_VECTOR_DIM)


class ParameterCount(NamedTuple):
    """Parameters of a model, by part."""

    embedding: int
    """Embedding rows; looked up, not multiplied."""
    geometry: int
    """Matrices that project the codec's code vectors to rows of embedding and head."""
    text_encoder: int
    """Byte embedding, null vector and encoder blocks, which run once per text."""
    blocks: int
    """Attention, cross-attention, feed-forward and their norms, of all layers."""
    head: int
    """Final norm, and the head's own rows or biases."""

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(self)


def count_parameters(config: LanguageModelConfig) -> ParameterCount:
    """Return the exact number of parameters of `LanguageModel(config)`, without building it."""
    text = 0
    if config.text_bytes:
        encoder = config.text_encoder()
        # + 2: the null vector and the last norm
        text = (BYTE_ROWS + 2) * encoder.dim + encoder.num_layers * count_block(encoder)
    # a head of its own has a row for each code, a shared or projected one only a bias
    per_code = config.dim if config.embedding == "learned" else 1
    return ParameterCount(
        embedding=config.num_codebooks * VOCABULARY_SIZE * config.dim,
        geometry=2 * config.num_codebooks * config.vector_dim * config.dim,
        text_encoder=text,
        blocks=config.num_layers * count_block(config),
        head=config.dim + config.num_codebooks * CODEBOOK_SIZE * per_code,
    )


def count_block(config: TransformerConfig) -> int:
    """Return the exact number of parameters of one block."""
    kv_dim = config.num_kv_heads * config.head_dim
    # query, key and value; output; the norm that queries and keys share
    attention = config.dim * (config.dim + 2 * kv_dim) + config.dim * config.dim + config.head_dim
    feedforward = 3 * config.dim * config.ff_dim
    cross = 2 * config.dim * config.dim + count_memory_projection(config)
    cross += config.dim + config.head_dim
    return attention + feedforward + 2 * config.dim + (cross if config.memory_dim else 0)


def count_memory_projection(config: TransformerConfig) -> int:
    """Return the parameters of a block's text projection, which runs once per generation."""
    return config.memory_dim * 2 * config.num_kv_heads * config.head_dim


ROPE_BASE = 10_000.0
"""Slowest rotary wave of every named size, in steps per radian.

Source:
    Su et al. 2021 (arXiv:2104.09864), sec. 3.3.
"""


TEXT_BYTES = 512
"""Longest text of every named size, in bytes: about eighty words, or thirty tags."""

TEXT_LAYERS = 2
"""Blocks of the text encoder of every named size."""


class Shape(NamedTuple):
    """Widths and depth that the name of a size stands for."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ff_dim: int
    text_dim: int
    """Width of the text encoder, in a conditioned model."""


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
"""Shape of every named size: 3.4 M, 16 M, 40 M, 108 M, 187 M and 1.5 B parameters with 9 codebooks,
and 1.8 M to 19 M more with learned tables for both ends."""


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
        reads_text: True for a model with a text encoder and cross-attention.
        embedding: Source of the rows of codes.
        vector_dim: Width of a code's vector, with embedding codec.

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
