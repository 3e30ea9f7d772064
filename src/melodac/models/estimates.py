"""What a model will cost, known before it is built: memory, arithmetic, codes per parameter.

Printed before a training run starts, and the arithmetic is what model FLOP utilisation is measured
against. Training and the pipeline may import this file.
"""

from typing import NamedTuple

from melodac.models.config import LanguageModelConfig, count_parameters
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
    """What the blocks keep for the backward pass."""
    logit_bytes: int
    """Logits and what the loss makes of them."""

    @property
    def total_bytes(self) -> int:
        """All of it, the process itself not counted."""
        return self.state_bytes + self.activation_bytes + self.logit_bytes


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
    kv_dim = config.num_kv_heads * config.head_dim
    # Each norm keeps what comes in, its quotient and what goes out; attention keeps queries, keys,
    # values and its result; feed-forward four of its width; dropout a mask per sublayer.
    norms = 2 * 3 * config.dim
    attention = (config.dim + 2 * kv_dim) + 2 * (config.dim + kv_dim) + config.dim
    per_layer = norms + attention + 4 * config.ff_dim + 2 * config.dim
    positions = batch_size * num_steps
    return MemoryEstimate(
        state_bytes=_COPIES_OF_WEIGHTS * 4 * count_parameters(config).total,
        activation_bytes=bytes_per_number
        * positions
        * (config.num_layers * per_layer + 4 * config.dim),
        logit_bytes=_COPIES_OF_LOGITS
        * bytes_per_number
        * positions
        * config.num_codebooks
        * CODEBOOK_SIZE,
    )


def count_training_flops(config: LanguageModelConfig, *, batch_size: int, num_steps: int) -> int:
    """Multiplications and additions of one forward and backward pass.

    Two for each multiplied parameter and step, three times over (the backward pass is two forward
    passes); attention counts only the past, half of the square.

    Args:
        config: Shape of the model.
        batch_size: Windows in the pass.
        num_steps: Steps of a window.

    Source:
        PaLM, appendix B (arXiv:2204.02311), with attention halved by causality.
    """
    attention = config.num_layers * config.dim * num_steps
    per_step = 6 * (count_parameters(config).multiplied + attention)
    return batch_size * num_steps * per_step


def codes_per_parameter(config: LanguageModelConfig, *, num_codes: int) -> float:
    """Training codes for each parameter; far below 1 the model can learn its data by heart.

    Args:
        config: Shape of the model.
        num_codes: Frames times codebooks of the training split.
    """
    return num_codes / count_parameters(config).total
