"""Input of one update: its windows, cut into micro-batches ("parts"), as a pure function.

Every random draw for an update depends on (seed, purpose, update, item or part) only, so an update
is the same on any rank, for any micro-batch size, and after resuming.

A run has one stage of windows, or several under a context curriculum, each with its own epochs from
its first update on. Epochs follow one another without a gap, so an update may end one epoch and
begin the next, and a run resumes anywhere by knowing one number. For a GPU a second thread reads
the next update while the present one is computed, which changes nothing but time.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from melodac.errors import TrainingError
from melodac.models.condition import Condition
from melodac.tokens.array import TokenArray
from melodac.tokens.batches import read_batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import (
    ANYWHERE,
    Starts,
    WindowTable,
    count_union,
    num_training_windows,
    training_windows,
)
from melodac.training.conditions import Tags, draw_conditions
from melodac.training.config import TrainConfig
from melodac.training.distributed import Ranks
from melodac.training.loss import build_targets
from melodac.training.schedule import context_frames_at
from melodac.training.seeding import derive_seed


class UpdateWindows(NamedTuple):
    """Windows of one update."""

    table: WindowTable
    """One row per item of the update, over all processes."""
    frames: int
    """Frames of these windows."""


class WindowCoverage(NamedTuple):
    """Coverage of the music by the present stage, since the start of its last epoch but one."""

    windows_read: int
    windows_distinct: int
    """Number of these that differ in track or start: nearly all where windows start anywhere."""
    frames_read_share: float
    """Share of all training frames in at least one of them; 1 once an epoch is over."""


class _Stage(NamedTuple):
    first: int
    """First update."""
    frames: int
    windows_per_epoch: int
    seed: int


class WindowOrder:
    """Order of the training windows over all updates of one run."""

    def __init__(
        self, array: TokenArray, frames: int, config: TrainConfig, *, starts: Starts = ANYWHERE
    ) -> None:
        """Prepare the order; nothing is drawn yet.

        A stage whose windows are longer than the index's raises `ConfigError`.

        Args:
            array: Tracks of the training split.
            frames: Frames of the index's windows, which no stage may exceed.
            config: Config of the run: its curriculum, windows per update and seed.
            starts: Starts allowed for windows.
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
        """Return the windows of an update, across epochs if necessary."""
        stage = self._stage(update)
        first = (update - stage.first) * self._size
        return UpdateWindows(_join(self._read(stage, first, self._size)), stage.frames)

    def epoch_after(self, update: int) -> float:
        """Return the passes over the training windows done after an update; 0 before update 1."""
        ends = [stage.first for stage in self._stages[1:]] + [self._updates + 1]
        return sum(
            max(0, min(update + 1, end) - stage.first) * self._size / stage.windows_per_epoch
            for stage, end in zip(self._stages, ends, strict=True)
        )

    def coverage_after(self, update: int) -> WindowCoverage:
        """Measure how much music, in how many distinct windows, was read up to an update.

        If windows always start at the same frames, only half of those read are distinct; music that
        is never read lowers the share of frames below 1.
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
            count_union(firsts, table.num_frames) / int(offsets[-1]),
        )

    def _build_stage(self, first: int, frames: int, seed: int) -> _Stage:
        # the first stage has the seed of a run with one stage, so both begin with equal draws
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
            # assigned once and as a whole: another thread may read updates ahead
            last = self._last = (key, table)
        return last[1]


def _join(parts: Iterator[WindowTable]) -> WindowTable:
    tables = list(parts)
    return WindowTable(
        np.concatenate([table.tracks for table in tables]),
        np.concatenate([table.starts for table in tables]),
        np.concatenate([table.num_frames for table in tables]),
    )


Read = TypeVar("Read")


class Prefetcher(Generic[Read]):
    """Reader of updates in order, ahead of their use, in a thread; a context manager."""

    def __init__(
        self, read: Callable[[int], Read], first: int, last: int, *, depth: int = 1
    ) -> None:
        """Start to read the first update.

        Args:
            read: Reads an update; called in one thread only, never twice at once.
            first: First update to be taken.
            last: Last update to be read.
            depth: Updates read ahead; 0 reads on demand, in the caller's thread.
        """
        self._read = read
        self._last = last
        self._next = first
        self._unread = first
        self._depth = depth
        self._pending: deque[Future[Read]] = deque()
        self._thread = ThreadPoolExecutor(1, "prefetch") if depth else None
        self._read_ahead()

    def take(self, update: int) -> Read:
        """Return the result of `read(update)`; an error in it is raised here, with its traceback.

        Raises:
            TrainingError: If the update does not follow the one taken before.
        """
        if not self._next == update <= self._last:
            raise TrainingError(
                f"update {update} was asked for where {self._next} of {self._last} follows: begin "
                "a new Prefetcher to go elsewhere"
            )
        self._next += 1
        if self._thread is None:
            return self._read(update)
        found = self._pending.popleft().result()
        self._read_ahead()
        return found

    def close(self) -> None:
        """Wait for the update being read and stop the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher[Read]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_ahead(self) -> None:
        while (
            self._thread is not None
            and len(self._pending) < self._depth
            and self._unread <= self._last
        ):
            self._pending.append(self._thread.submit(self._read, self._unread))
            self._unread += 1


class TrainingData(NamedTuple):
    """Training and validation split of a run."""

    train: TokenArray
    validation: TokenArray
    window_frames: int
    """Frames of a window, in training and in validation."""
    starts: Starts = ANYWHERE
    """Starts of training windows; validation windows lie end to end."""
    train_tags: tuple[Tags, ...] = ()
    """Tags of each training track, for a model that reads text."""
    validation_tags: tuple[Tags, ...] = ()
    """Tags of each validation track."""


@dataclass(frozen=True)
class Part:
    """Micro-batch of an update."""

    index: int
    """Number of the part in its update."""
    items: range
    """Numbers of its windows in the update."""
    sequence: Int64[Tensor, "B K S"]
    """Delayed codes, which are inputs (shifted) and targets."""
    counted: Bool[Tensor, "B K S"]
    condition: Condition | None = None
    """Texts of the items; None for a model without text."""


class UpdateInput(NamedTuple):
    """Input of one process for one update."""

    parts: tuple[Part, ...]
    """Parts of this process."""
    num_frames: int
    """Counted frames of the whole update, over all processes."""


class UpdateReader:
    """Reader of the windows of any update."""

    def __init__(
        self,
        data: TrainingData,
        pattern: DelayPattern,
        config: TrainConfig,
        *,
        text_bytes: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        """Prepare the order of windows; nothing is read yet.

        Args:
            data: Data of the run.
            pattern: Delay pattern of the codes.
            config: Config of the run.
            text_bytes: Longest text that the model reads, in bytes; 0 without text.
            ranks: Processes that share an update.
            device: Device of the model.
        """
        ranks.check_share(config.windows_per_update, config.micro_batch)
        self._data = data
        self._pattern = pattern
        self._config = config
        self._text_bytes = text_bytes
        self._ranks = ranks
        self._device = device
        self.window_frames = data.window_frames
        self.order = WindowOrder(data.train, data.window_frames, config, starts=data.starts)

    def read(self, update: int) -> UpdateInput:
        """Read the parts of an update for this process; updates count from 1."""
        windows = self.order.take(update)
        num_parts = self._config.windows_per_update // self._config.micro_batch
        parts = [self._read_part(update, windows, index) for index in self._ranks.share(num_parts)]
        return UpdateInput(tuple(parts), int(windows.table.num_frames.sum()))

    def _read_part(self, update: int, windows: UpdateWindows, index: int) -> Part:
        size = self._config.micro_batch
        items = range(index * size, (index + 1) * size)
        table = windows.table.take(slice(items.start, items.stop))
        batch = read_batch(self._data.train, table, windows.frames, self._pattern.max_delay)
        targets = build_targets(batch, self._pattern, self._device)
        condition = None
        if self._text_bytes:
            condition = draw_conditions(
                [self._data.train_tags[int(track)] for track in table.tracks],
                self._config,
                update=update,
                items=items,
                max_bytes=self._text_bytes,
            ).to(self._device)
        return Part(index, items, targets.sequence, targets.counted, condition)
