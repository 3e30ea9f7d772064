"""`LanguageModelConfig`, the shape of a model, and the exact number of its parameters.

Everything that decides the tensors of a checkpoint is here; a shape that cannot work is refused
before anything is built. Any module above may import this file.
"""

from typing import Annotated, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from melodac.config import Section
from melodac.tokens.vocabulary import CODEBOOK_SIZE, VOCABULARY_SIZE


class LanguageModelConfig(Section):
    """Shape of a decoder-only transformer over delayed codes."""

    num_codebooks: PositiveInt
    """Rows of a sequence: codebooks times channels."""
    dim: PositiveInt
    """Width of the residual stream."""
    num_layers: PositiveInt
    """Blocks, each of attention and feed-forward."""
    num_heads: PositiveInt
    """Attention heads that ask; `num_heads * head_dim` is `dim`."""
    num_kv_heads: PositiveInt
    """Attention heads that answer; divides `num_heads`."""
    head_dim: PositiveInt
    """Width of one head; even, since rotary positions turn pairs."""
    ff_dim: PositiveInt
    """Width inside the feed-forward sublayer."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of activations dropped after the embedding and after each sublayer, in training."""
    rope_base: PositiveFloat
    """Slowest rotary wave, in steps per radian."""

    @model_validator(mode="after")
    def _heads_fill_the_width(self) -> "LanguageModelConfig":
        # Heads narrower than the stream are a bottleneck that the loss does not show.
        if self.num_heads * self.head_dim != self.dim:
            raise ValueError(
                f"num_heads ({self.num_heads}) times head_dim ({self.head_dim}) must equal "
                f"dim ({self.dim}): got {self.num_heads * self.head_dim}"
            )
        return self

    @model_validator(mode="after")
    def _kv_heads_divide_heads(self) -> "LanguageModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})"
            )
        return self

    @model_validator(mode="after")
    def _heads_pair_up(self) -> "LanguageModelConfig":
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even: got {self.head_dim}")
        return self


class ParameterCount(NamedTuple):
    """Parameters of a model by part."""

    embedding: int
    """Rows that a code looks up; they cost no multiplication."""
    blocks: int
    """Attention, feed-forward and their norms, over all layers."""
    head: int
    """Final norm and the projection to the logits of every codebook."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.blocks + self.head

    @property
    def multiplied(self) -> int:
        """Parameters that every step multiplies with: all but the embedding."""
        return self.blocks + self.head


def count_parameters(config: LanguageModelConfig) -> ParameterCount:
    """Exact number of parameters of `LanguageModel(config)`, without building it."""
    kv_dim = config.num_kv_heads * config.head_dim
    attention = config.dim * (config.dim + 2 * kv_dim) + config.dim * config.dim + config.head_dim
    feedforward = 3 * config.dim * config.ff_dim
    return ParameterCount(
        embedding=config.num_codebooks * VOCABULARY_SIZE * config.dim,
        blocks=config.num_layers * (attention + feedforward + 2 * config.dim),
        head=config.dim + config.num_codebooks * CODEBOOK_SIZE * config.dim,
    )
