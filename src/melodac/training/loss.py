"""The one loss: cross-entropy in nats per codebook, for training and for every evaluation.

Unsmoothed and unweighted: what is reported is what these functions return. Targets that are not
counted (special tokens, cells past the end) contribute exactly zero.
"""

import math

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from melodac.errors import TrainingError

UNCOUNTED = -100
"""Target that `cross_entropy` skips; no code or special token has a negative id."""


def per_codebook_loss(
    logits: Float[Tensor, "B K S U"],
    sequence: Int[Tensor, "B K S"],
    counted: Bool[Tensor, "B K S"],
) -> tuple[Float[Tensor, " K"], Int64[Tensor, " K"]]:
    """Sum of nats and number of counted cells, both per codebook, in float32.

    Sums and counts, not means, so that micro-batches of uneven size add up exactly.

    Args:
        logits: Prediction of every cell, from earlier steps only.
        sequence: The delayed codes that were to be predicted.
        counted: True where the cell is a code whose prediction counts.
    """
    # step by step, the order in which the model lays its logits out, so that nothing is copied
    targets = torch.where(counted, sequence.long(), UNCOUNTED).transpose(1, 2)
    nats = functional.cross_entropy(
        logits.float().transpose(1, 2).flatten(0, 2),
        targets.flatten(),
        ignore_index=UNCOUNTED,
        reduction="none",
    )
    return nats.view(targets.shape).sum(dim=(0, 1)), counted.sum(dim=(0, 2))


def total_loss(nats: Float[Tensor, " K"], counts: Int64[Tensor, " K"]) -> Float[Tensor, ""]:
    """Mean nats per code over every counted cell of every codebook.

    Raises:
        TrainingError: If no cell was counted.
    """
    total = counts.sum()
    if not total:
        raise TrainingError(
            "no cell is counted, so the loss has no mean: give at least one window with a frame"
        )
    return nats.sum() / total


def codebook_means(nats: Float[Tensor, " K"], counts: Int64[Tensor, " K"]) -> list[float]:
    """Mean nats per code of each codebook, in float64; NaN for a codebook without counted cells."""
    means = nats.double() / counts.double()
    return [float(mean) for mean in means]


def bits_per_second(nats_per_codebook: list[float], frame_rate_hz: float) -> float:
    """Code length of one second of sound under the model, in bits.

    Comparable across codecs and numbers of codebooks, unlike the mean loss.

    Args:
        nats_per_codebook: Mean nats per code of each codebook.
        frame_rate_hz: Codec frames per second.

    Example:
        >>> round(bits_per_second([math.log(1024)] * 9, frame_rate_hz=44100 / 512), 1)
        7752.0

    Source:
        Cover and Thomas 2006, section 5.3.
    """
    return sum(nats_per_codebook) / math.log(2.0) * frame_rate_hz
