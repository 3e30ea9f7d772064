"""Changing the sample rate with soxr at its best quality; any module above may import it."""

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.errors import AudioError

QUALITY = "VHQ"


class Resampler:
    """Another sample rate for a track given block by block.

    However the track is cut, the samples that come out are the same, to the bit.
    """

    def __init__(self, from_hz: int, to_hz: int, num_channels: int) -> None:
        """Start a track.

        Raises:
            AudioError: If a rate is not positive.
        """
        if from_hz <= 0 or to_hz <= 0:
            raise AudioError(f"sample rates must be above 0 Hz: got {from_hz} and {to_hz}")
        self._rates = f"{from_hz} Hz to {to_hz} Hz"
        self._num_channels = num_channels
        self._stream = (
            None
            if from_hz == to_hz
            else soxr.ResampleStream(from_hz, to_hz, num_channels, dtype="float32", quality=QUALITY)
        )

    def add(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C ..."]:
        """Take the next samples, give those that are certain; if not finite, an `AudioError`."""
        return self._resample(audio, is_last=False)

    def finish(self) -> Float32[np.ndarray, "C ..."]:
        """The samples still held back; errors as in `add`."""
        return self._resample(np.zeros((self._num_channels, 0), np.float32), is_last=True)

    def _resample(
        self, audio: Float32[np.ndarray, "C N"], *, is_last: bool
    ) -> Float32[np.ndarray, "C ..."]:
        if self._stream is None or not (audio.shape[1] or is_last):
            return audio
        resampled = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=is_last)
        if not np.isfinite(resampled).all():
            raise AudioError(f"resampling {self._rates} gave NaN or infinity")
        return resampled.T


def resample(
    audio: Float32[np.ndarray, "C N"], from_hz: int, to_hz: int
) -> Float32[np.ndarray, "C ..."]:
    """The same sound at another sample rate, `round(N * to_hz / from_hz)` samples within 1.

    Errors are those of `Resampler`.
    """
    resampler = Resampler(from_hz, to_hz, audio.shape[0])
    if from_hz == to_hz:
        return audio
    return np.concatenate([resampler.add(audio), resampler.finish()], axis=1)
