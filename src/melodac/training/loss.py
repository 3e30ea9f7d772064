"""The one loss: cross-entropy in nats per codebook, in training and in every evaluation.

Unsmoothed and unweighted: losses are reported as these functions return them. Targets that are not
counted (special tokens, cells past the end) contribute exactly zero. Validation and evaluation both
score windows with `score_windows`: one forward pass, no training, no random draws.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional

from melodac.errors import TrainingError
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.models.layers import evaluation_mode
from melodac.tokens.array import TokenArray
from melodac.tokens.batches import Batch, counted_cells, read_batch, to_sequence
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import WindowTable
from melodac.training.conditions import Tags, full_conditions

UNCOUNTED = -100
"""Target that `cross_entropy` ignores; no code or special token has a negative id."""


def per_codebook_loss(
    logits: Float[Tensor, "B K S U"],
    sequence: Int[Tensor, "B K S"],
    counted: Bool[Tensor, "B K S"],
) -> tuple[Float[Tensor, " K"], Int64[Tensor, " K"]]:
    """Return the sum of nats and the number of counted cells, per codebook, in float32.

    Sums and counts, not means, so that micro-batches of uneven size add up exactly.

    Args:
        logits: Prediction of every cell, from earlier steps only.
        sequence: Delayed codes, the targets.
        counted: True where the cell is a code whose prediction counts.
    """
    # step by step, as the logits lie in memory, so that nothing is copied
    targets = torch.where(counted, sequence.long(), UNCOUNTED).transpose(1, 2)
    nats = functional.cross_entropy(
        logits.float().transpose(1, 2).flatten(0, 2),
        targets.flatten(),
        ignore_index=UNCOUNTED,
        reduction="none",
    )
    return nats.view(targets.shape).sum(dim=(0, 1)), counted.sum(dim=(0, 2))


def total_loss(nats: Float[Tensor, " K"], counts: Int64[Tensor, " K"]) -> Float[Tensor, ""]:
    """Return the mean nats per code over all counted cells of all codebooks.

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
    """Return the mean nats per code of each codebook, in float64; NaN without counted cells."""
    means = nats.double() / counts.double()
    return [float(mean) for mean in means]


def bits_per_second(nats_per_codebook: list[float], frame_rate_hz: float) -> float:
    """Return the code length of one second of audio under the model, in bits.

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


class Targets(NamedTuple):
    """Targets of a model, with a mask of the cells that count."""

    sequence: Int64[Tensor, "B K S"]
    counted: Bool[Tensor, "B K S"]


class WindowScores(NamedTuple):
    """Sums over each window, in the order of its table."""

    nats: Float64[Tensor, "B K"]
    counts: Int64[Tensor, "B K"]


def build_targets(batch: Batch, pattern: DelayPattern, device: torch.device) -> Targets:
    """Build the delayed sequence of a batch and the mask of its counted cells, on a device."""
    frames = batch.counted.shape[-1]
    return Targets(
        to_sequence(batch.codes, pattern, frames).to(device),
        counted_cells(batch.counted, pattern).to(device),
    )


@torch.inference_mode()
def score_windows(
    model: LanguageModel,
    pattern: DelayPattern,
    array: TokenArray,
    windows: WindowTable,
    *,
    frames: int,
    windows_per_batch: int,
    tags: Sequence[Tags] = (),
) -> WindowScores:
    """Score every window; the model is in evaluation mode meanwhile.

    Args:
        model: Trained model.
        pattern: Delay pattern the model was trained with.
        array: Tracks that the windows refer to.
        windows: Windows to score.
        frames: Frames of a window.
        windows_per_batch: Windows in memory at once; changes no result.
        tags: Tags of each track, for a model that reads them; empty for the null condition.
    """
    device = next(model.parameters()).device
    nats = [torch.zeros(0, pattern.num_codebooks, dtype=torch.float64)]
    counts = [torch.zeros(0, pattern.num_codebooks, dtype=torch.int64)]
    with evaluation_mode(model):
        for first in range(0, len(windows), windows_per_batch):
            rows = windows.take(slice(first, first + windows_per_batch))
            batch = read_batch(array, rows, frames, pattern.max_delay)
            sequence, counted = build_targets(batch, pattern, device)
            logits = model(sequence, conditions_of(model, tags, rows, device))
            for item in range(len(rows)):
                one = slice(item, item + 1)
                item_nats, item_counts = per_codebook_loss(logits[one], sequence[one], counted[one])
                nats.append(item_nats.double().cpu()[None])
                counts.append(item_counts.cpu()[None])
    return WindowScores(torch.cat(nats), torch.cat(counts))


def conditions_of(
    model: LanguageModel, tags: Sequence[Tags], windows: WindowTable, device: torch.device
) -> Condition | None:
    """Return all tags of each window's track as a condition; None without tags or text encoder."""
    if not (tags and model.config.text_bytes):
        return None
    of_windows = [tags[int(track)] for track in windows.tracks]
    return full_conditions(of_windows, model.config.text_bytes).to(device)
