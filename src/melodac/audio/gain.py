"""The one gain that brings a track to a target loudness; any module above may import it.

Nothing is compressed or clipped: where the ceiling is met the track stays quieter, and the result
says so.
"""

import math
from dataclasses import dataclass

import numpy as np

from melodac.audio.loudness import ABSOLUTE_GATE_LUFS, SILENCE_LUFS, LoudnessMeter
from melodac.errors import AudioError

SILENT_PEAK = 1.0e-10
"""-200 dBFS, far below what any converter resolves."""
TOLERANCE_LU = 0.001
REPORTED_LU = 0.02
"""From here on a track counts as short of the target."""
MAX_ROUNDS = 16
"""A changed gain moves quiet passages across the absolute gate; two rounds settle all music."""


@dataclass(frozen=True)
class Gain:
    """A gain, what led to it and what comes of it."""

    gain_db: float
    loudness_before_lufs: float
    """Measured with the peak at full scale, so that a quiet recording is not gated as silence."""
    loudness_after_lufs: float
    peak_dbtp: float
    """True peak afterwards."""
    is_gain_capped: bool
    """The target would have needed more gain than allowed."""
    is_peak_limited: bool
    """The target would have pushed the waveform past the ceiling."""

    @property
    def factor(self) -> np.float32:
        """What samples are multiplied with."""
        return np.float32(10.0 ** (self.gain_db / 20.0))


def choose_gain(
    meter: LoudnessMeter,
    true_peak: float,
    *,
    target_lufs: float,
    max_gain_db: float,
    peak_ceiling_dbtp: float,
) -> Gain:
    """The gain that brings a track to the target, or as near as cap and ceiling allow.

    Args:
        meter: Has taken the whole track.
        true_peak: Highest absolute value of its waveform.
        target_lufs: Loudness wanted.
        max_gain_db: Most amplification allowed; attenuation is not limited.
        peak_ceiling_dbtp: The waveform of the result does not pass this.

    Raises:
        AudioError: If the track is not finite or silent.
    """
    if not math.isfinite(true_peak):
        raise AudioError("non-finite: its samples are NaN, infinite or too large to add up")
    if true_peak < SILENT_PEAK:
        raise AudioError("silent: no sample is further than -200 dBFS from zero")
    # the level of the recording plays no part: all is decided by where the peak will be
    before_dbtp = 20.0 * math.log10(true_peak)
    limits = (max_gain_db + before_dbtp, peak_ceiling_dbtp)
    loudness_unit = meter.loudness_lufs(-before_dbtp)
    if loudness_unit == SILENCE_LUFS:
        raise AudioError("silent: nothing in it is loud enough to measure, even at full scale")
    peak_dbtp, reached_lufs = 0.0, loudness_unit
    for _ in range(MAX_ROUNDS):
        peak_dbtp = min(peak_dbtp + target_lufs - reached_lufs, *limits)
        reached_lufs = meter.loudness_lufs(peak_dbtp - before_dbtp)
        if peak_dbtp == min(limits) or abs(target_lufs - reached_lufs) <= TOLERANCE_LU:
            break
    if reached_lufs == SILENCE_LUFS:
        raise AudioError(
            f"silent: below {ABSOLUTE_GATE_LUFS:g} LUFS even {max_gain_db:g} dB louder"
        )
    is_short = target_lufs - reached_lufs > REPORTED_LU
    return Gain(
        gain_db=peak_dbtp - before_dbtp,
        loudness_before_lufs=loudness_unit + before_dbtp,
        loudness_after_lufs=reached_lufs,
        peak_dbtp=peak_dbtp,
        is_gain_capped=is_short and limits[0] <= limits[1],
        is_peak_limited=is_short and limits[1] < limits[0],
    )
