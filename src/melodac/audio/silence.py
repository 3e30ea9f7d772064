"""Where the sound of a track begins and ends; any module above may import it."""

import numpy as np
from jaxtyping import Float32


class SoundBounds:
    """First and last sample that reach a level in any channel, of a track given block by block."""

    def __init__(self, level_dbfs: float) -> None:
        self._level = 10.0 ** (level_dbfs / 20.0)
        self._first: int | None = None
        self._stop = 0
        self._taken = 0

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Take the next samples."""
        is_loud = ((audio >= self._level) | (audio <= -self._level)).any(axis=0)
        if is_loud.any():
            if self._first is None:
                self._first = self._taken + int(is_loud.argmax())
            self._stop = self._taken + audio.shape[1] - int(is_loud[::-1].argmax())
        self._taken += audio.shape[1]

    def with_margin(self, margin: int) -> tuple[int, int] | None:
        """Start and stop of the sound with at most `margin` samples at each end; None if silent."""
        if self._first is None:
            return None
        return max(0, self._first - margin), min(self._taken, self._stop + margin)
