"""Which windows an update sees: a pure function of the seed and the number of windows seen before.

Epochs follow one another without a gap, so an update may end one epoch and begin the next, and a
run resumes in the middle of an epoch by knowing one number. Only training imports this file.
"""

import numpy as np

from melodac.tokens.array import TokenArray
from melodac.tokens.windows import (
    ANYWHERE,
    Starts,
    WindowTable,
    num_training_windows,
    training_windows,
)
from melodac.training.seeding import derive_seed


class WindowOrder:
    """The endless sequence of training windows of one run."""

    def __init__(
        self, array: TokenArray, frames: int, seed: int, *, starts: Starts = ANYWHERE
    ) -> None:
        """Lay out the order; nothing is drawn yet.

        Args:
            array: Tracks of the training split.
            frames: Frames of a window.
            seed: Seed of the run.
            starts: Where windows may start.
        """
        self._lengths = [int(length) for length in array.lengths]
        self._frames = frames
        self._starts = starts
        self._seed = derive_seed(seed, "windows")
        self._epochs: dict[int, WindowTable] = {}
        self.windows_per_epoch = num_training_windows(self._lengths, frames, starts=starts)

    def take(self, first: int, count: int) -> WindowTable:
        """Windows `first` to `first + count` of the run, across epochs where need be."""
        parts: list[WindowTable] = []
        while count:
            epoch, position = divmod(first, self.windows_per_epoch)
            part = self._epoch(epoch).take(slice(position, position + count))
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return WindowTable(
            np.concatenate([part.tracks for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.num_frames for part in parts]),
        )

    def _epoch(self, epoch: int) -> WindowTable:
        if epoch not in self._epochs:
            table = training_windows(
                self._lengths, self._frames, self._seed, epoch, starts=self._starts
            )
            self._epochs = {epoch: table}
        return self._epochs[epoch]
