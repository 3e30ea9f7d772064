"""Cost of a model, known before it is built: memory, arithmetic, codes per parameter.

Printed before a training run starts; model FLOP utilisation is measured against the arithmetic.
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
"""Copies of the weights: weights, gradients, two moments of AdamW, EMA weights."""

_COPIES_OF_LOGITS = 3
"""Copies of the logits: logits, their log-softmax, their gradient."""


class MemoryEstimate(NamedTuple):
    """Bytes that training holds at its peak, by cause."""

    state_bytes: int
    """Weights, gradients, optimizer state and EMA weights."""
    activation_bytes: int
    """Activations kept for the backward pass, and projected rows of codes."""
    logit_bytes: int
    """Logits and the results of the loss."""


def estimate_training_memory(
    config: LanguageModelConfig, *, batch_size: int, num_steps: int, bytes_per_number: int = 4
) -> MemoryEstimate:
    """Estimate the memory of one update of AdamW with EMA weights, without recomputation.

    Args:
        config: Shape of the model.
        batch_size: Windows in memory at once.
        num_steps: Steps of a window.
        bytes_per_number: Size of activations and logits; weights and optimizer state are float32.
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
    """Return the bytes of projected or tied tables, two with their gradients."""
    if config.embedding == "learned":
        return 0
    table = 4 * config.num_codebooks * CODEBOOK_SIZE * config.dim
    vectors = 4 * config.num_codebooks * CODEBOOK_SIZE * config.vector_dim
    return 2 * 2 * table + vectors


def _kept_per_step(config: TransformerConfig) -> int:
    """Return the numbers that one block keeps of each step for the backward pass."""
    kv_dim = config.num_kv_heads * config.head_dim
    # Each norm keeps its input, the quotient and its output; attention keeps queries, keys, values
    # and its result; feed-forward keeps four of its width; dropout a mask per sublayer.
    sublayers = config.num_sublayers // config.num_layers
    norms = sublayers * 3 * config.dim
    attention = (config.dim + 2 * kv_dim) + 2 * (config.dim + kv_dim) + config.dim
    cross_attention = 4 * config.dim if config.memory_dim else 0
    dropout = sublayers * config.dim
    return norms + attention + cross_attention + 4 * config.ff_dim + dropout


def count_training_flops(config: LanguageModelConfig, *, batch_size: int, num_steps: int) -> int:
    """Return the multiplications and additions of one forward and backward pass.

    Two for each multiplied parameter and step, times three (the backward pass is two forward
    passes); self-attention counts the past only, half of the square. Every text counts as long as
    the model allows. The head counts as a full matrix in every embedding mode.

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
    # rows of codes are projected from their vectors once per pass, however many windows it has
    return 6 * (batch_size * steps + count.geometry * CODEBOOK_SIZE)


def codes_per_parameter(config: LanguageModelConfig, *, num_codes: int) -> float:
    """Return training codes per parameter; far below 1 the model can memorise its data.

    Args:
        config: Shape of the model.
        num_codes: Frames times codebooks of the training split.
    """
    return num_codes / count_parameters(config).total
