"""Loudness after ITU-R BS.1770 and the gain that brings a track to a target.

The meter takes a track in blocks, so its memory does not grow with the track. Filters are those of
pyloudnorm; only this module imports it. Any module above may import this one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Float64
from pyloudnorm.iirfilter import IIRfilter  # pyright: ignore[reportMissingTypeStubs]  it has none
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none

from melodac.errors import AudioError

STEPS_PER_SECOND = 10
STEPS_PER_BLOCK = 4
"""Gating blocks of 0.4 s that start every 0.1 s."""
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LU = -0.691
"""Source: ITU-R BS.1770-4, equations 2 and 4 to 7."""
SILENCE_LUFS = float("-inf")
"""What the meter says of a track that the absolute gate keeps out entirely."""
SILENT_PEAK = 1.0e-10
"""-200 dBFS, far below what any converter resolves."""

TOLERANCE_LU = 0.02
MAX_ROUNDS = 4
"""A changed gain moves quiet passages across the absolute gate; two rounds settle all music."""
MEASURED_AT_ONCE = 1 << 20
"""Samples per channel; bounds the meter's memory for a track that is held whole."""


class LoudnessMeter:
    """Integrated loudness of a track given block by block.

    Channels weigh the same: exact for mono and stereo, and files with more seldom say which is
    which. A track shorter than one gating block (0.4 s) is measured as if it were repeated to
    fill that block: padding with silence would call a short sound quiet.
    """

    def __init__(self, rate_hz: int, num_channels: int) -> None:
        self._rate_hz = rate_hz
        self._filters = _k_weighting(rate_hz)
        self._state = np.zeros((len(self._filters), num_channels, 2))
        self._pending = np.zeros(0)
        self._step_energies: list[float] = []
        self._head: Float32[np.ndarray, "C N"] = np.zeros((num_channels, 0), np.float32)
        self._block_samples = math.ceil(STEPS_PER_BLOCK * rate_hz / STEPS_PER_SECOND)

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Take the next samples of the track."""
        if (missing := self._block_samples - self._head.shape[1]) > 0:
            self._head = np.concatenate([self._head, audio[:, :missing]], axis=1)
        weighted, self._state = _filter(self._filters, audio.astype(np.float64), self._state)
        self._add_power(np.square(weighted).sum(axis=0))

    def loudness_lufs(self) -> float:
        """Loudness of everything taken so far, `SILENCE_LUFS` if nothing passes the gate."""
        if self._head.shape[1] == 0:
            return SILENCE_LUFS
        if self._head.shape[1] < self._block_samples:
            repeats = math.ceil(self._block_samples / self._head.shape[1])
            filled = np.tile(self._head, (1, repeats))[:, : self._block_samples]
            return measure_loudness(filled, self._rate_hz)
        steps = np.array(self._step_energies + self._last_step())
        blocks = np.convolve(steps, np.ones(STEPS_PER_BLOCK), mode="valid")
        return _gate(blocks * STEPS_PER_SECOND / (STEPS_PER_BLOCK * self._rate_hz))

    def _add_power(self, power: Float64[np.ndarray, " N"]) -> None:
        power = np.concatenate([self._pending, power])
        first = len(self._step_energies)
        start = self._edge(first)
        last = ((start + len(power) + 1) * STEPS_PER_SECOND - 1) // self._rate_hz
        edges = [self._edge(step) - start for step in range(first, last + 1)]
        if len(edges) > 1:
            energies = np.add.reduceat(power[: edges[-1]], edges[:-1])
            self._step_energies += [float(energy) for energy in energies]
        self._pending = power[edges[-1] :]

    def _edge(self, step: int) -> int:
        return step * self._rate_hz // STEPS_PER_SECOND

    def _last_step(self) -> list[float]:
        # as pyloudnorm does: a tail of more than half a step counts as a whole one
        is_counted = 2 * len(self._pending) * STEPS_PER_SECOND > self._rate_hz
        return [float(self._pending.sum())] if is_counted else []


@dataclass(frozen=True)
class Normalization:
    """What `normalize_loudness` did."""

    gain_db: float
    loudness_before_lufs: float
    """Measured with the peak at full scale, so that a quiet recording is not gated as silence."""
    loudness_after_lufs: float
    peak_dbfs: float
    """Highest sample afterwards."""
    is_gain_capped: bool
    """The target would have needed more gain than allowed."""
    is_peak_limited: bool
    """The target would have pushed a sample past the ceiling."""


def measure_loudness(
    audio: Float32[np.ndarray, "C N"], rate_hz: int, gain_db: float = 0.0
) -> float:
    """Integrated loudness in LUFS after a gain, `SILENCE_LUFS` for silence."""
    meter = LoudnessMeter(rate_hz, audio.shape[0])
    for start in range(0, audio.shape[1], MEASURED_AT_ONCE):
        meter.add(audio[:, start : start + MEASURED_AT_ONCE] * _factor(gain_db))
    return meter.loudness_lufs()


def normalize_loudness(
    audio: Float32[np.ndarray, "C N"],
    rate_hz: int,
    *,
    target_lufs: float,
    max_gain_db: float,
    peak_ceiling_dbfs: float,
) -> tuple[Float32[np.ndarray, "C N"], Normalization]:
    """The track at the target loudness, by one gain, or as near as cap and ceiling allow.

    Nothing is compressed or clipped: where the ceiling is met the track stays quieter, and the
    result says so.

    Args:
        audio: Any finite sound.
        rate_hz: Its sample rate.
        target_lufs: Loudness wanted.
        max_gain_db: Most amplification allowed; attenuation is not limited.
        peak_ceiling_dbfs: No sample of the result is above this.

    Raises:
        AudioError: If the audio is empty, not finite, or silent.
    """
    if audio.size == 0 or not np.isfinite(audio).all():
        raise AudioError("cannot set the loudness of audio that is empty or holds NaN or infinity")
    peak = max(float(audio.max()), -float(audio.min()))
    if peak < SILENT_PEAK:
        raise AudioError("silent: no sample is further than -200 dBFS from zero")
    peak_db = 20.0 * math.log10(peak)

    def measure(peak_dbfs: float) -> float:
        return measure_loudness(audio, rate_hz, gain_db=peak_dbfs - peak_db)

    # the level of the recording plays no part: all is decided by where the peak will be
    loudness_unit = measure(0.0)
    if loudness_unit == SILENCE_LUFS:
        raise AudioError("silent: nothing in it is loud enough to measure, even at full scale")
    limits = (max_gain_db + peak_db, peak_ceiling_dbfs)
    peak_dbfs, after_lufs = _settle_peak(
        measure, first_lufs=loudness_unit, target_lufs=target_lufs, limit_dbfs=min(limits)
    )
    if after_lufs == SILENCE_LUFS:
        raise AudioError(
            f"silent: below {ABSOLUTE_GATE_LUFS:g} LUFS even {max_gain_db:g} dB louder"
        )
    is_short = target_lufs - after_lufs > TOLERANCE_LU
    return audio * _factor(peak_dbfs - peak_db), Normalization(
        gain_db=peak_dbfs - peak_db,
        loudness_before_lufs=loudness_unit + peak_db,
        loudness_after_lufs=after_lufs,
        peak_dbfs=peak_dbfs,
        is_gain_capped=is_short and limits[0] <= limits[1],
        is_peak_limited=is_short and limits[1] < limits[0],
    )


def _settle_peak(
    measure: Callable[[float], float],
    *,
    first_lufs: float,
    target_lufs: float,
    limit_dbfs: float,
) -> tuple[float, float]:
    peak_dbfs, reached_lufs = 0.0, first_lufs
    for _ in range(MAX_ROUNDS):
        peak_dbfs = min(peak_dbfs + target_lufs - reached_lufs, limit_dbfs)
        reached_lufs = measure(peak_dbfs)
        if peak_dbfs == limit_dbfs or abs(target_lufs - reached_lufs) <= TOLERANCE_LU:
            break
    return peak_dbfs, reached_lufs


def _factor(gain_db: float) -> np.float32:
    return np.float32(10.0 ** (gain_db / 20.0))


def _k_weighting(rate_hz: int) -> Float64[np.ndarray, "2 6"]:
    stages: tuple[Any, ...] = (
        IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, rate_hz, "high_shelf"),
        IIRfilter(0.0, 0.5, 38.0, rate_hz, "high_pass"),
    )
    return np.array([np.concatenate([stage.b, stage.a]) for stage in stages])


def _filter(
    sections: Float64[np.ndarray, "2 6"],
    audio: Float64[np.ndarray, "C N"],
    state: Float64[np.ndarray, "2 C 2"],
) -> tuple[Float64[np.ndarray, "C N"], Float64[np.ndarray, "2 C 2"]]:
    filtered = cast(Any, signal).sosfilt(sections, audio, axis=1, zi=state)
    return filtered[0], filtered[1]


def _gate(block_powers: Float64[np.ndarray, " N"]) -> float:
    loud = block_powers[block_powers >= _power(ABSOLUTE_GATE_LUFS)]
    if loud.size == 0:
        return SILENCE_LUFS
    relative_gate = loud.mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0)
    # both gates: a track just above the absolute one has its relative gate below it
    counted = loud[loud > relative_gate]
    return OFFSET_LU + 10.0 * math.log10(counted.mean())


def _power(lufs: float) -> float:
    return 10.0 ** ((lufs - OFFSET_LU) / 10.0)
