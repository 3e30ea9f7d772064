"""Taking a constant offset out of a track given block by block; any module above may import it.

A high-pass of the first order at 2 Hz, and no subtraction of the mean. The mean of a short sound is
not its offset: subtracting it would lift the silence around a drum hit off zero, where it is no
longer silent. The high-pass returns to zero, follows an offset that drifts, and costs a 30 Hz tone
0.02 dB. It starts as if the mean of the first second had been there for ever, so that a recording
with an offset begins without a thump.
"""

from typing import Any, cast

import numpy as np
from jaxtyping import Float32
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none

CUTOFF_HZ = 2.0
START_S = 1.0
"""What the offset at the start is estimated from."""


class DcBlocker:
    """The track without its offset; however it is cut, the samples are the same."""

    def __init__(self, rate_hz: int, num_channels: int) -> None:
        self._numerator, self._denominator = cast(Any, signal).butter(
            1, CUTOFF_HZ, "highpass", fs=rate_hz
        )
        self._start_samples = int(START_S * rate_hz)
        self._waiting: Float32[np.ndarray, "C N"] = np.zeros((num_channels, 0), np.float32)
        self._state: Any = None

    def add(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C ..."]:
        """Take the next samples, give those that are certain: all, once a second is known."""
        if self._state is None:
            self._waiting = np.concatenate([self._waiting, audio], axis=1)
            if self._waiting.shape[1] < self._start_samples:
                return self._waiting[:, :0]
            audio = self._start()
        return self._filter(audio)

    def finish(self) -> Float32[np.ndarray, "C ..."]:
        """The samples still held back: a whole track of less than a second."""
        if self._state is not None or self._waiting.shape[1] == 0:
            return self._waiting[:, :0]
        return self._filter(self._start())

    def _start(self) -> Float32[np.ndarray, "C ..."]:
        held, self._waiting = self._waiting, self._waiting[:, :0]
        offset = held[:, : self._start_samples].mean(axis=1, keepdims=True, dtype=np.float64)
        at_rest = cast(Any, signal).lfilter_zi(self._numerator, self._denominator)
        self._state = at_rest * offset
        return held

    def _filter(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C N"]:
        filtered, self._state = cast(Any, signal).lfilter(
            self._numerator, self._denominator, audio, axis=1, zi=self._state
        )
        return filtered.astype(np.float32)
