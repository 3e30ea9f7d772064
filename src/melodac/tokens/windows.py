"""Windows: the frames of the tracks that a batch reads. Cropping is decided here and nowhere else.

A table is a pure function of the track lengths, the window length, where windows may start and, in
training, of (seed, epoch). An empty split raises `EmptySplitError`, a length or window below one
frame `TokenError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64, Integer

from melodac.errors import EmptySplitError, TokenError


class Window(NamedTuple):
    """Window of one track."""

    track: int
    """Position of the track in the lengths that the table was made from."""
    start: int
    """First frame."""
    num_frames: int
    """Frames that count, from `start` on; frames read beyond them are context only."""


@dataclass(frozen=True)
class WindowTable:
    """Windows, in the order in which they are read."""

    tracks: Int32[np.ndarray, " B"]
    starts: Int64[np.ndarray, " B"]
    num_frames: Int32[np.ndarray, " B"]

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, row: int) -> Window:
        return Window(int(self.tracks[row]), int(self.starts[row]), int(self.num_frames[row]))

    def take(self, rows: slice | Integer[np.ndarray, " B"]) -> "WindowTable":
        """Return the windows of some rows, given as a slice or as row numbers in any order."""
        return WindowTable(self.tracks[rows], self.starts[rows], self.num_frames[rows])


class Bars(NamedTuple):
    """Bar lines of one track, in frames that need not be whole."""

    first: float
    """Frame of the first bar line at or after frame 0."""
    length: float
    """Frames from one bar line to the next."""


class Starts(NamedTuple):
    """Frames at which training windows may start."""

    is_fixed: bool = False
    """True to tile from the first start in every epoch, so that only the order changes."""
    bars: tuple[Bars | None, ...] = ()
    """Bars of each track, None where a window may start at any frame; empty: None for all."""


ANYWHERE = Starts()
"""Starts at any frame, drawn anew each epoch."""


class Coverage(NamedTuple):
    """Share of the eligible music that some windows reach."""

    num_frames_seen: int
    num_frames: int
    """Frames of all tracks."""
    num_distinct: int
    """Number of windows that differ in track or start."""
    num_possible: int
    """Number of starts that a window of this length may have in all tracks."""


def training_windows(
    lengths: Sequence[int], frames: int, seed: int, epoch: int, *, starts: Starts = ANYWHERE
) -> WindowTable:
    """Return the windows of one epoch in random order.

    Without bars every frame of every track is in at least one window: a track of up to `frames`
    frames is one window, a longer one is tiled from an offset drawn anew each epoch, with a window
    at each end that closes the tiling. If the offset leaves the tiling one window short, a window
    at a random start fills the place: every epoch then has `num_training_windows` windows, and a
    position in training can be computed without history.

    With bars the same tiling steps from bar line to bar line. The last window starts at the last
    bar line that is needed and may reach past the end, where fewer frames count. Frames before the
    first bar line are in no window, nor is the rest of a bar longer than a window.

    Args:
        lengths: Frames of each track.
        frames: Frames of a window.
        seed: Seed of the run, >= 0.
        epoch: Number of the pass over the data, from 0.
        starts: Starts allowed for windows.

    Raises:
        TokenError: If `seed` or `epoch` is negative.
    """
    grid = _lay_grid(lengths, frames, starts)
    if seed < 0 or epoch < 0:
        raise TokenError(f"seed and epoch must be >= 0, got seed {seed} and epoch {epoch}")
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    counts = grid.counts(is_fixed=starts.is_fixed)
    tracks, rows = _tile(counts)
    offsets = generator.integers(1, grid.steps, endpoint=True)
    fills = generator.integers(0, grid.last, endpoint=True)
    if starts.is_fixed:
        positions = rows * grid.steps[tracks]
    else:
        positions = np.where(rows == 0, 0, offsets[tracks] + (rows - 1) * grid.steps[tracks])
        # a position past the last one: this offset needs one window less, so a random one fills up
        positions = np.where(positions > grid.last[tracks], fills[tracks], positions)
    is_last = rows == counts[tracks] - 1
    positions = np.where(is_last, grid.last[tracks], positions)
    order = generator.permutation(len(tracks))
    firsts = grid.frames_at(tracks, positions)
    counted = np.minimum(grid.sizes[tracks] - firsts, frames)
    return _build_table(tracks, firsts, counted).take(order)


def num_training_windows(lengths: Sequence[int], frames: int, *, starts: Starts = ANYWHERE) -> int:
    """Return the number of windows of every epoch of `training_windows`, whatever its seed."""
    return int(_lay_grid(lengths, frames, starts).counts(is_fixed=starts.is_fixed).sum())


def evaluation_windows(lengths: Sequence[int], frames: int) -> WindowTable:
    """Tile tracks end to end, in order: each frame is counted exactly once.

    The last window of a track counts only the frames that remain.

    Example:
        >>> table = evaluation_windows([5, 2], frames=3)
        >>> [tuple(table[row]) for row in range(len(table))]
        [(0, 0, 3), (0, 3, 2), (1, 0, 2)]
    """
    sizes = _check_lengths(lengths, frames)
    tracks, rows = _tile(-(-sizes // frames))
    starts = rows * frames
    return _build_table(tracks, starts, np.minimum(sizes[tracks] - starts, frames))


def coverage(
    tables: Sequence[WindowTable],
    lengths: Sequence[int],
    frames: int,
    *,
    starts: Starts = ANYWHERE,
) -> Coverage:
    """Measure how much of the tracks some windows cover: frames counted, and distinct windows.

    Args:
        tables: Windows, for example those of several epochs.
        lengths: Frames of each track.
        frames: Frames of a window.
        starts: Starts allowed for windows.
    """
    grid = _lay_grid(lengths, frames, starts)
    ends = np.cumsum(grid.sizes)
    firsts = np.concatenate(
        [(ends - grid.sizes)[table.tracks] + table.starts for table in tables] or [ends[:0]]
    )
    counted = np.concatenate([table.num_frames for table in tables] or [ends[:0]])
    return Coverage(
        num_frames_seen=count_union(firsts, counted),
        num_frames=int(ends[-1]),
        num_distinct=len(np.unique(firsts)),
        num_possible=int((grid.last + 1).sum()),
    )


@dataclass(frozen=True)
class _Grid:
    """Positions 0, 1, 2 ... of each track at which a window may start: its frames, or its bars."""

    sizes: Int64[np.ndarray, " B"]
    """Frames of each track."""
    firsts: Float64[np.ndarray, " B"]
    """Frame of position 0."""
    spacings: Float64[np.ndarray, " B"]
    """Frames from one position to the next."""
    steps: Int64[np.ndarray, " B"]
    """Positions from one window to the next without a gap, at least 1."""
    last: Int64[np.ndarray, " B"]
    """Position of the first window that reaches the end of the track."""

    def counts(self, *, is_fixed: bool) -> Int64[np.ndarray, " B"]:
        """Return the windows of each track in an epoch."""
        tiles = -(-self.last // self.steps) + 1
        if is_fixed:
            return tiles
        # at most as many windows as starts: a track one frame longer than a window has only two
        return np.where(self.last > 0, np.minimum(tiles + 1, self.last + 1), 1)

    def frames_at(
        self, tracks: Integer[np.ndarray, " _"], positions: Int64[np.ndarray, " _"]
    ) -> Int64[np.ndarray, " _"]:
        """Return the frame nearest to each position, halves rounded up."""
        exact = self.firsts[tracks] + positions * self.spacings[tracks]
        return np.floor(exact + 0.5).astype(np.int64)


def _lay_grid(lengths: Sequence[int], frames: int, starts: Starts) -> _Grid:
    sizes = _check_lengths(lengths, frames)
    bars = _check_bars(starts.bars or (None,) * len(sizes), sizes)
    firsts, spacings = np.array(bars, dtype=np.float64).T
    steps: Int64[np.ndarray, " B"] = np.maximum(frames // spacings, 1).astype(np.int64)
    # the last position is the first one from which a window reaches the end; rounding can move a
    # start by half a frame, so the neighbours of the estimate are checked too
    exact: Float64[np.ndarray, " B"] = np.ceil((sizes - frames - firsts) / spacings)
    last: Int64[np.ndarray, " B"] = np.maximum(exact, 0).astype(np.int64)
    grid = _Grid(sizes, firsts, spacings, steps, last)
    rows = np.arange(len(sizes))
    is_short = grid.frames_at(rows, last) + frames < sizes
    before: Int64[np.ndarray, " B"] = np.maximum(last - 1, 0)
    is_long = grid.frames_at(rows, before) + frames >= sizes
    last = np.where(is_short, last + 1, np.where(is_long, before, last))
    # a window holds at least one frame, also where bars are longer than windows
    is_beyond = grid.frames_at(rows, last) >= sizes
    return _Grid(sizes, firsts, spacings, steps, np.where(is_beyond, before, last))


def _check_bars(
    bars: Sequence[Bars | None], sizes: Int64[np.ndarray, " B"]
) -> list[tuple[float, float]]:
    if len(bars) != len(sizes):
        raise TokenError(f"bars of {len(bars)} tracks for {len(sizes)} tracks: give one for each")
    for track, (bar, size) in enumerate(zip(bars, sizes, strict=True)):
        if bar is not None and not (1.0 <= bar.length < np.inf and 0.0 <= bar.first < size - 0.5):
            raise TokenError(
                f"track {track} of {size} frames has bars of {bar.length} frames from frame "
                f"{bar.first} on: a bar has at least 1 frame and the first lies in the track"
            )
    return [(0.0, 1.0) if bar is None else (bar.first, bar.length) for bar in bars]


def count_union(firsts: Int64[np.ndarray, " B"], sizes: Integer[np.ndarray, " B"]) -> int:
    """Count frames in at least one window; the work grows with the windows, not the frames."""
    order = np.argsort(firsts)
    ends = np.maximum.accumulate((firsts + sizes)[order])
    covered = np.concatenate([[0], ends[:-1]])
    return int(np.maximum(ends - np.maximum(firsts[order], covered), 0).sum())


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
