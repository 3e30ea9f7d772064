"""What one update reads: its windows, cut into micro-batches ("parts"), as a pure function.

Everything drawn at random for an update is drawn from (seed, purpose, update, item or part), so an
update is the same on any rank, in any micro-batch cut, and after any stop.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from melodac.models.condition import Condition
from melodac.tokens.array import TokenArray
from melodac.tokens.batches import read_batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import ANYWHERE, Starts
from melodac.training.conditions import Tags, draw_conditions
from melodac.training.config import TrainConfig
from melodac.training.distributed import Ranks
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
    train_tags: tuple[Tags, ...] = ()
    """Of each training track, for a model that reads them."""
    validation_tags: tuple[Tags, ...] = ()
    """Of each validation track."""


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
    condition: Condition | None = None
    """What the model reads beside codes."""


class UpdateInput(NamedTuple):
    """All that one process reads for one update."""

    parts: tuple[Part, ...]
    """Those of this process."""
    num_frames: int
    """Counted frames of the whole update, those of other processes included."""


class UpdateReader:
    """Reads the windows of any update."""

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
        """Lay out the order; nothing is read yet.

        Args:
            data: What is learned from.
            pattern: Delay pattern of the codes.
            config: The run.
            text_bytes: What the model reads of a text; 0 if it reads none.
            ranks: The processes that share an update.
            device: Where the model is.
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
        """The parts of an update, counted from 1."""
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
