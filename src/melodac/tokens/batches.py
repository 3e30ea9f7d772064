"""Batches: the codes of some windows as one tensor, with a mask of what the loss counts.

A batch carries W = T + max delay real frames, so that all T + max delay steps of a sequence hold
real frames and no delayed codebook loses its tail.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.errors import DelayError
from melodac.tokens.array import TokenArray
from melodac.tokens.delay import DelayPattern, apply_delay, cell_exists, cell_frames
from melodac.tokens.vocabulary import PAD
from melodac.tokens.windows import WindowTable


class Batch(NamedTuple):
    """Codes of some windows, and the frames that count."""

    codes: Int64[Tensor, "B K W"]
    """Frames from each window's start on, past its end where the track goes on, PAD beyond."""
    counted: Bool[Tensor, "B T"]
    """True for the frames that exist and that the window counts."""


def read_batch(array: TokenArray, windows: WindowTable, frames: int, max_delay: int) -> Batch:
    """Read the windows of one batch.

    Args:
        array: Tracks, in the order of the lengths from which `windows` was made.
        windows: One row per item.
        frames: Frames of a window.
        max_delay: Real frames to read beyond the window, `DelayPattern.max_delay`.
    """
    firsts = array.starts[windows.tracks] + windows.starts
    remaining = array.lengths[windows.tracks] - windows.starts
    positions = np.arange(frames + max_delay)
    # past the end of a track the last row is read again, and replaced by PAD below
    rows = firsts[:, None] + np.minimum(positions, remaining[:, None] - 1)
    B, W = rows.shape
    K = array.values.shape[1]
    # one gather of whole rows, then one pass that casts and transposes: 130 000 windows/s of
    # 512 x 9 out of 50 hours on one core; casting first or transposing in torch is 2 to 10 times
    # slower
    gathered = array.values.take(rows.ravel(), axis=0).reshape(B, W, K)
    codes = np.empty((B, K, W), dtype=np.int64)
    codes[...] = gathered.transpose(0, 2, 1)
    for item in np.flatnonzero(remaining < W):
        codes[item, :, remaining[item] :] = PAD
    limits = np.minimum(remaining, windows.num_frames)
    counted = positions[:frames] < limits[:, None]
    return Batch(torch.as_tensor(codes), torch.as_tensor(counted))


def to_sequence(
    codes: Int[Tensor, "B K W"], pattern: DelayPattern, frames: int
) -> Int[Tensor, "B K S"]:
    """Arrange W real frames as the steps of a window of `frames` frames.

    The tail of a delayed codebook is filled by real frames beyond the window, so no step holds a
    PAD unless the track ends there.

    Raises:
        DelayError: If the codes are not `frames` plus the largest delay long.

    Example:
        >>> from melodac.tokens.delay import build_pattern
        >>> codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
        >>> to_sequence(codes, build_pattern([0, 1], num_codebooks=2), frames=2)
        tensor([[[   1,    2,    3],
                 [1024,    4,    5]]])
    """
    W = codes.shape[-1]
    if frames + pattern.max_delay != W:
        raise DelayError(
            f"delay {pattern.name!r} needs {frames} + {pattern.max_delay} frames for a window of "
            f"{frames}, got {W}: read the batch with this pattern's largest delay"
        )
    return apply_delay(codes, pattern)[..., : pattern.num_steps(frames)]


def counted_cells(counted: Bool[Tensor, "B T"], pattern: DelayPattern) -> Bool[Tensor, "B K S"]:
    """Return True for the cells of a sequence whose frame is counted.

    Example:
        >>> from melodac.tokens.delay import build_pattern
        >>> counted_cells(torch.tensor([[True, True]]), build_pattern([0, 1], num_codebooks=2))
        tensor([[[ True,  True, False],
                 [False,  True,  True]]])
    """
    B, T = counted.shape
    frames = cell_frames(pattern, T).clamp(0, T - 1).to(counted.device)
    exists = cell_exists(pattern, T).to(counted.device)
    K = pattern.num_codebooks
    cells = counted[:, frames.reshape(-1)].reshape(B, -1, K) & exists
    return cells.transpose(1, 2)
