"""Which windows an update sees: a pure function of the seed and the number of the update.

A run has one stage of windows, or several under a context curriculum, each with epochs of its own
from its first update on. Epochs follow one another without a gap, so an update may end one epoch
and begin the next, and a run resumes anywhere by knowing one number.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from melodac.tokens.array import TokenArray
from melodac.tokens.windows import (
    ANYWHERE,
    Starts,
    WindowTable,
    num_training_windows,
    training_windows,
)
from melodac.training.config import TrainConfig
from melodac.training.schedule import context_frames_at
from melodac.training.seeding import derive_seed


class UpdateWindows(NamedTuple):
    """What one update reads."""

    table: WindowTable
    """One row for each global item."""
    frames: int
    """Frames of these windows."""


class WindowCoverage(NamedTuple):
    """What the stage in progress has read since its last epoch but one began."""

    windows_read: int
    windows_distinct: int
    """Of these, how many differ in track or start: nearly all where windows start anywhere."""
    frames_read_share: float
    """Frames in at least one of them, of all training frames: 1 once an epoch is over."""


class _Stage(NamedTuple):
    first: int
    """First update."""
    frames: int
    windows_per_epoch: int
    seed: int


class WindowOrder:
    """The training windows of every update of one run."""

    def __init__(
        self, array: TokenArray, frames: int, config: TrainConfig, *, starts: Starts = ANYWHERE
    ) -> None:
        """Lay out the order; nothing is drawn yet.

        A stage whose windows are longer than the index's is refused with `ConfigError`.

        Args:
            array: Tracks of the training split.
            frames: Frames of the index's windows, which no stage may exceed.
            config: The run: its curriculum, its windows an update, its seed.
            starts: Where windows may start.
        """
        self._lengths = [int(length) for length in array.lengths]
        self._starts = starts
        self._size = config.windows_per_update
        self._updates = config.updates
        self._stages = [
            self._build_stage(first, context_frames_at(first, config, frames), config.seed)
            for first in ([first for first, _ in config.context] or [1])
        ]
        self._last: tuple[tuple[int, int], WindowTable] | None = None

    def take(self, update: int) -> UpdateWindows:
        """Windows of an update, across epochs where need be."""
        stage = self._stage(update)
        first = (update - stage.first) * self._size
        return UpdateWindows(_join(self._read(stage, first, self._size)), stage.frames)

    def epoch_after(self, update: int) -> float:
        """Passes over the training windows that are done after an update; 0 before the first."""
        ends = [stage.first for stage in self._stages[1:]] + [self._updates + 1]
        return sum(
            max(0, min(update + 1, end) - stage.first) * self._size / stage.windows_per_epoch
            for stage, end in zip(self._stages, ends, strict=True)
        )

    def coverage_after(self, update: int) -> WindowCoverage:
        """How much of the music, in how many different windows, was read up to an update.

        Windows that always start at the same frames show as half of those read being distinct,
        music that is never read as a share below 1.
        """
        stage = self._stage(update)
        end = (update - stage.first + 1) * self._size
        begin = max(0, (end - 1) // stage.windows_per_epoch - 1) * stage.windows_per_epoch
        table = _join(self._read(stage, begin, end - begin))
        offsets = np.cumsum([0, *self._lengths])
        firsts = offsets[table.tracks] + table.starts
        return WindowCoverage(
            end - begin,
            len(np.unique(firsts)),
            _count_union(firsts, table.num_frames) / int(offsets[-1]),
        )

    def _build_stage(self, first: int, frames: int, seed: int) -> _Stage:
        # the first stage draws what a run of one stage draws
        place = () if first == 1 else (first,)
        return _Stage(
            first,
            frames,
            num_training_windows(self._lengths, frames, starts=self._starts),
            derive_seed(seed, "windows", *place),
        )

    def _stage(self, update: int) -> _Stage:
        if not 1 <= update <= self._updates:
            raise ValueError(f"update must be between 1 and {self._updates}: got {update}")
        return [stage for stage in self._stages if stage.first <= update][-1]

    def _read(self, stage: _Stage, first: int, count: int) -> Iterator[WindowTable]:
        while count:
            epoch, position = divmod(first, stage.windows_per_epoch)
            part = self._epoch(stage, epoch).take(slice(position, position + count))
            yield part
            first, count = first + len(part), count - len(part)

    def _epoch(self, stage: _Stage, epoch: int) -> WindowTable:
        key = (stage.first, epoch)
        last = self._last
        if last is None or last[0] != key:
            table = training_windows(
                self._lengths, stage.frames, stage.seed, epoch, starts=self._starts
            )
            # replaced whole and read once: updates are read ahead in another thread
            last = self._last = (key, table)
        return last[1]


def _join(parts: Iterator[WindowTable]) -> WindowTable:
    tables = list(parts)
    return WindowTable(
        np.concatenate([table.tracks for table in tables]),
        np.concatenate([table.starts for table in tables]),
        np.concatenate([table.num_frames for table in tables]),
    )


def _count_union(firsts: Int64[np.ndarray, " B"], sizes: Int32[np.ndarray, " B"]) -> int:
    """Frames in at least one window; the work grows with the windows, not with the frames."""
    order = np.argsort(firsts)
    ends = np.maximum.accumulate((firsts + sizes)[order])
    covered = np.concatenate([[0], ends[:-1]])
    return int(np.maximum(ends - np.maximum(firsts[order], covered), 0).sum())
