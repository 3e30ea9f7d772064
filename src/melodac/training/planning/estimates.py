"""What a model will cost, known before it is built: memory, arithmetic, codes per parameter.

Printed before a training run starts, and the arithmetic is what model FLOP utilisation is measured
against.
"""

from typing import NamedTuple

from melodac.models.config import (
    LanguageModelConfig,
    TransformerConfig,
    count_block,
    count_memory_projection,
    count_parameters,
)
from melodac.tokens.vocabulary import CODEBOOK_SIZE

_COPIES_OF_WEIGHTS = 5
"""Weights, gradients, two moments of AdamW, averaged weights."""

_COPIES_OF_LOGITS = 3
"""Logits, their log-softmax, the gradient of the logits."""


class MemoryEstimate(NamedTuple):
    """Bytes that training holds at its peak, by cause."""

    state_bytes: int
    """Weights and everything of their shape."""
    activation_bytes: int
    """What the blocks keep for the backward pass, and rows of codes that are made anew."""
    logit_bytes: int
    """Logits and what the loss makes of them."""


def estimate_training_memory(
    config: LanguageModelConfig, *, batch_size: int, num_steps: int, bytes_per_number: int = 4
) -> MemoryEstimate:
    """Memory of one update of AdamW with averaged weights, without recomputation.

    Args:
        config: Shape of the model.
        batch_size: Windows in memory at once.
        num_steps: Steps of a window.
        bytes_per_number: Width of activations and logits; weights and moments are float32.
    """
    logits = batch_size * num_steps * config.num_codebooks * CODEBOOK_SIZE
    kept = num_steps * (config.num_layers * _kept_per_step(config) + 4 * config.dim)
    if config.text_bytes:
        encoder = config.text_encoder()
        kv_dim = config.num_kv_heads * config.head_dim
        # the encoder's blocks, its last norm and, in every layer, keys, normalised keys and values
        per_byte = encoder.num_layers * _kept_per_step(encoder) + 4 * encoder.dim
        kept += config.text_bytes * (per_byte + config.num_layers * 4 * kv_dim)
    return MemoryEstimate(
        state_bytes=_COPIES_OF_WEIGHTS * 4 * count_parameters(config).total,
        activation_bytes=bytes_per_number * batch_size * kept + _table_bytes(config),
        logit_bytes=_COPIES_OF_LOGITS * bytes_per_number * logits,
    )


def _table_bytes(config: LanguageModelConfig) -> int:
    """Bytes of tables that are no weights: one for each end of the model, and their gradients."""
    if config.embedding == "learned":
        return 0
    table = 4 * config.num_codebooks * CODEBOOK_SIZE * config.dim
    vectors = 4 * config.num_codebooks * CODEBOOK_SIZE * config.vector_dim
    return 2 * 2 * table + vectors


def _kept_per_step(config: TransformerConfig) -> int:
    """Numbers that one block keeps of each step for the backward pass."""
    kv_dim = config.num_kv_heads * config.head_dim
    # Each norm keeps what comes in, its quotient and what goes out; attention keeps queries, keys,
    # values and its result; feed-forward four of its width; dropout a mask per sublayer.
    sublayers = config.num_sublayers // config.num_layers
    norms = sublayers * 3 * config.dim
    attention = (config.dim + 2 * kv_dim) + 2 * (config.dim + kv_dim) + config.dim
    cross_attention = 4 * config.dim if config.memory_dim else 0
    dropout = sublayers * config.dim
    return norms + attention + cross_attention + 4 * config.ff_dim + dropout


def count_training_flops(config: LanguageModelConfig, *, batch_size: int, num_steps: int) -> int:
    """Multiplications and additions of one forward and backward pass.

    Two for each multiplied parameter and step, three times over (the backward pass is two forward
    passes); attention counts only the past, half of the square. Every text counts as if it filled
    the model's room for it. The table of logits counts whatever its rows are made of.

    Args:
        config: Shape of the model.
        batch_size: Windows in the pass.
        num_steps: Steps of a window.

    Source:
        PaLM, appendix B (arXiv:2204.02311), with self-attention halved by causality.
    """
    count = count_parameters(config)
    memory_projections = config.num_layers * count_memory_projection(config)
    attention = config.num_layers * config.dim * (num_steps + 2 * config.text_bytes)
    head = config.dim + config.num_codebooks * CODEBOOK_SIZE * config.dim
    steps = num_steps * (count.blocks - memory_projections + head + attention)
    if config.text_bytes:
        encoder = config.text_encoder()
        read = encoder.num_layers * (count_block(encoder) + 2 * encoder.dim * config.text_bytes)
        steps += config.text_bytes * (read + memory_projections)
    # rows of codes are made of their vectors once a pass, however many windows it has
    return 6 * (batch_size * steps + count.geometry * CODEBOOK_SIZE)


def codes_per_parameter(config: LanguageModelConfig, *, num_codes: int) -> float:
    """Training codes for each parameter; far below 1 the model can learn its data by heart.

    Args:
        config: Shape of the model.
        num_codes: Frames times codebooks of the training split.
    """
    return num_codes / count_parameters(config).total
