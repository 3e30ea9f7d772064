"""Nats of every codebook on given windows: the model run once, nothing trained, nothing drawn.

Validation and evaluation both score through here, with the loss of training.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import TokenArray
from melodac.tokens.batches import Batch, counted_cells, read_batch, to_sequence
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import WindowTable
from melodac.training.conditions import Tags, full_conditions
from melodac.training.loss import per_codebook_loss


class Targets(NamedTuple):
    """What a model is asked to predict."""

    sequence: Int64[Tensor, "B K S"]
    counted: Bool[Tensor, "B K S"]


class WindowScores(NamedTuple):
    """Sums of each window, in the order of its table."""

    nats: Float64[Tensor, "B K"]
    counts: Int64[Tensor, "B K"]


def build_targets(batch: Batch, pattern: DelayPattern, device: torch.device) -> Targets:
    """The delayed sequence of a batch and which of its cells count, on the model's device."""
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
        model: A trained model.
        pattern: Delay pattern the model was trained with.
        array: Tracks the windows number.
        windows: What to score.
        frames: Frames of a window.
        windows_per_batch: Windows in memory at once; changes no result.
        tags: Of each track, for a model that reads them; none: it reads the null condition.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = [torch.zeros(0, pattern.num_codebooks, dtype=torch.float64)]
    counts = [torch.zeros(0, pattern.num_codebooks, dtype=torch.int64)]
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
    model.train(was_training)
    return WindowScores(torch.cat(nats), torch.cat(counts))


def conditions_of(
    model: LanguageModel, tags: Sequence[Tags], windows: WindowTable, device: torch.device
) -> Condition | None:
    """All tags of each window's track, if there are any and the model reads them."""
    if not (tags and model.config.text_bytes):
        return None
    of_windows = [tags[int(track)] for track in windows.tracks]
    return full_conditions(of_windows, model.config.text_bytes).to(device)
