"""Windows: which frames of which track a batch reads. The only place where cropping is decided.

A table is a pure function of the track lengths, the window length and, in training, of (seed,
epoch). Every window lies inside its track; every frame is covered. An empty split is refused with
`EmptySplitError`, a length or window below one frame with `TokenError`. Training, evaluation and
the index stage import this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from melodac.errors import EmptySplitError, TokenError


class Window(NamedTuple):
    """One window of one track."""

    track: int
    """Position of the track in the lengths that the table was made from."""
    start: int
    """First frame."""
    num_frames: int
    """Frames that count, from `start` on; what is read beyond them is context only."""


@dataclass(frozen=True)
class WindowTable:
    """Many windows, in the order in which they are to be read."""

    tracks: Int32[np.ndarray, " B"]
    starts: Int64[np.ndarray, " B"]
    num_frames: Int32[np.ndarray, " B"]

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, row: int) -> Window:
        return Window(int(self.tracks[row]), int(self.starts[row]), int(self.num_frames[row]))

    def take(self, rows: slice | Integer[np.ndarray, " B"]) -> "WindowTable":
        """The windows of some rows, given as a slice or as row numbers in any order."""
        return WindowTable(self.tracks[rows], self.starts[rows], self.num_frames[rows])


class Coverage(NamedTuple):
    """What part of the eligible music some windows reach."""

    num_frames_seen: int
    num_frames: int
    """Frames of all tracks."""
    num_distinct: int
    """Windows that differ in track or start."""
    num_possible: int
    """Starts that a window of this length has in all tracks."""


def training_windows(
    lengths: Sequence[int], frames: int, seed: int, epoch: int, *, is_fixed: bool = False
) -> WindowTable:
    """Windows of one epoch in random order: every frame of every track is in at least one.

    A track of up to `frames` frames is one window. A longer one is tiled from an offset drawn
    anew each epoch, with a window at each end that closes the tiling. Where the offset leaves the
    tiling one window short of other offsets, a window at a random start fills the place, so that
    every epoch has `num_training_windows` windows and a position in training needs no history.

    Args:
        lengths: Frames of each track.
        frames: Frames of a window.
        seed: Seed of the run, >= 0.
        epoch: Passes over the data that came before, >= 0.
        is_fixed: Tile from frame 0 in every epoch, so that only the order changes.

    Raises:
        TokenError: If `seed` or `epoch` is negative.
    """
    sizes = _check_lengths(lengths, frames)
    if seed < 0 or epoch < 0:
        raise TokenError(f"seed and epoch must be >= 0, got seed {seed} and epoch {epoch}")
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    counts = _windows_per_track(sizes, frames, is_fixed=is_fixed)
    tracks, rows = _tile(counts)
    room = np.maximum(sizes - frames, 0)
    offsets = generator.integers(1, frames, size=len(sizes), endpoint=True)
    fills = generator.integers(0, room, endpoint=True)
    if is_fixed:
        starts = rows * frames
    else:
        starts = np.where(rows == 0, 0, offsets[tracks] + (rows - 1) * frames)
        starts = np.where(starts > room[tracks], fills[tracks], starts)
    is_last = rows == counts[tracks] - 1
    starts = np.where(is_last, room[tracks], starts)
    order = generator.permutation(len(tracks))
    counted = np.minimum(sizes, frames)[tracks]
    return _build_table(tracks, starts, counted).take(order)


def num_training_windows(lengths: Sequence[int], frames: int, *, is_fixed: bool = False) -> int:
    """Windows of every epoch of `training_windows`, whatever its seed."""
    sizes = _check_lengths(lengths, frames)
    return int(_windows_per_track(sizes, frames, is_fixed=is_fixed).sum())


def evaluation_windows(lengths: Sequence[int], frames: int) -> WindowTable:
    """Windows laid end to end in track order: each frame is counted exactly once.

    The last window of a track counts only the frames that are left.

    Example:
        >>> table = evaluation_windows([5, 2], frames=3)
        >>> [tuple(table[row]) for row in range(len(table))]
        [(0, 0, 3), (0, 3, 2), (1, 0, 2)]
    """
    sizes = _check_lengths(lengths, frames)
    tracks, rows = _tile(-(-sizes // frames))
    starts = rows * frames
    return _build_table(tracks, starts, np.minimum(sizes[tracks] - starts, frames))


def coverage(tables: Sequence[WindowTable], lengths: Sequence[int], frames: int) -> Coverage:
    """Frames that the windows count, and distinct windows, beside what the tracks offer.

    Args:
        tables: Windows, for example those of several epochs.
        lengths: Frames of each track.
        frames: Frames of a window.
    """
    sizes = _check_lengths(lengths, frames)
    ends = np.cumsum(sizes)
    firsts = np.concatenate(
        [(ends - sizes)[table.tracks] + table.starts for table in tables] or [ends[:0]]
    )
    counted = np.concatenate([table.num_frames for table in tables] or [ends[:0]])
    return Coverage(
        num_frames_seen=int(_union(firsts, counted, int(ends[-1])).sum()),
        num_frames=int(ends[-1]),
        num_distinct=len(np.unique(firsts)),
        num_possible=int((np.maximum(sizes - frames, 0) + 1).sum()),
    )


def _union(
    firsts: Int64[np.ndarray, " B"], counted: Integer[np.ndarray, " B"], num_frames: int
) -> Bool[np.ndarray, " T"]:
    opened = np.bincount(firsts, minlength=num_frames + 1)
    closed = np.bincount(firsts + counted, minlength=num_frames + 1)
    return np.cumsum(opened - closed)[:num_frames] > 0


def _windows_per_track(
    sizes: Int64[np.ndarray, " B"], frames: int, *, is_fixed: bool
) -> Int64[np.ndarray, " B"]:
    tiles = -(-sizes // frames)
    if is_fixed:
        return tiles
    # no more windows than starts: a track of one frame more than a window has only two
    return np.where(sizes > frames, np.minimum(tiles + 1, sizes - frames + 1), 1)


def _tile(
    counts: Int64[np.ndarray, "..."],
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    tracks = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    return tracks, np.arange(len(tracks)) - firsts[tracks]


def _build_table(
    tracks: Int64[np.ndarray, " B"],
    starts: Int64[np.ndarray, " B"],
    num_frames: Int64[np.ndarray, " B"],
) -> WindowTable:
    return WindowTable(tracks.astype(np.int32), starts, num_frames.astype(np.int32))


def _check_lengths(lengths: Sequence[int], frames: int) -> Int64[np.ndarray, " B"]:
    if frames < 1:
        raise TokenError(f"a window needs at least 1 frame, got {frames}")
    if len(lengths) == 0:
        raise EmptySplitError("no track to take windows from: the split is empty")
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.min() < 1:
        track = int(sizes.argmin())
        raise TokenError(f"every track needs at least 1 frame, track {track} has {sizes[track]}")
    return sizes
