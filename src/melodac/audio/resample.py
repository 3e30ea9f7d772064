"""Changing the sample rate with soxr at its best quality; any module above may import it."""

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.errors import AudioError


def resample(
    audio: Float32[np.ndarray, "C N"], from_hz: int, to_hz: int
) -> Float32[np.ndarray, "C ..."]:
    """The same sound at another sample rate, `round(N * to_hz / from_hz)` samples within 1.

    Raises:
        AudioError: If a rate is not positive or the result is not finite.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise AudioError(f"sample rates must be above 0 Hz: got {from_hz} and {to_hz}")
    if from_hz == to_hz:
        return audio
    resampled = soxr.resample(audio.T, from_hz, to_hz, quality="VHQ")
    if not np.isfinite(resampled).all():
        raise AudioError(f"resampling {from_hz} Hz to {to_hz} Hz gave NaN or infinity")
    return np.ascontiguousarray(resampled.T)
