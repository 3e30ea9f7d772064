"""What one update reads: its windows, cut into micro-batches ("parts"), as a pure function.

Everything drawn at random for an update is drawn from (seed, purpose, update, item or part), so an
update is the same on any rank, in any micro-batch cut, and after any stop. Only training imports
this file.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from melodac.tokens.array import TokenArray
from melodac.tokens.batches import read_batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import ANYWHERE, Starts
from melodac.training.config import TrainConfig
from melodac.training.order import UpdateWindows, WindowOrder
from melodac.training.scoring import build_targets


class TrainingData(NamedTuple):
    """What is learned from, and what is held out."""

    train: TokenArray
    validation: TokenArray
    window_frames: int
    """Frames of a window, of training and of validation."""
    starts: Starts = ANYWHERE
    """Where training windows may start; validation windows lie end to end."""


@dataclass(frozen=True)
class Part:
    """One micro-batch of an update."""

    index: int
    """Number of the part in its update."""
    items: range
    """Numbers of its windows in the update."""
    sequence: Int64[Tensor, "B K S"]
    """The delayed codes, which are also the targets."""
    counted: Bool[Tensor, "B K S"]


class UpdateInput(NamedTuple):
    """All that one process reads for one update."""

    parts: tuple[Part, ...]
    num_frames: int
    """Counted frames of the whole update, those of other processes included."""


class UpdateReader:
    """Reads the windows of any update."""

    def __init__(
        self, data: TrainingData, pattern: DelayPattern, config: TrainConfig, device: torch.device
    ) -> None:
        """Lay out the order; nothing is read yet."""
        self._data = data
        self._pattern = pattern
        self._config = config
        self._device = device
        self.order = WindowOrder(data.train, data.window_frames, config, starts=data.starts)

    def read(self, update: int) -> UpdateInput:
        """The parts of an update, counted from 1."""
        size, part = self._config.windows_per_update, self._config.micro_batch
        windows = self.order.take(update)
        return UpdateInput(
            tuple(
                self._read_part(windows, index, range(first, first + part))
                for index, first in enumerate(range(0, size, part))
            ),
            int(windows.table.num_frames.sum()),
        )

    def epoch_after(self, update: int) -> float:
        """Passes over the training windows done after an update."""
        return self.order.epoch_after(update)

    def _read_part(self, windows: UpdateWindows, index: int, items: range) -> Part:
        batch = read_batch(
            self._data.train,
            windows.table.take(slice(items.start, items.stop)),
            windows.frames,
            self._pattern.max_delay,
        )
        targets = build_targets(batch, self._pattern, self._device)
        return Part(index, items, targets.sequence, targets.counted)
