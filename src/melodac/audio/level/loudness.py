"""Loudness after ITU-R BS.1770, true peak, and the gain to a target loudness below a peak ceiling.

The meter takes a track in blocks and keeps ten energies a second, so its memory is a ten-thousandth
of the track, and it can tell the loudness after any gain. Filters are those of pyloudnorm.

Nothing is compressed or clipped: at the ceiling the track stays quieter, and the result says so.
The true peak is the highest point of the waveform between the samples, after ITU-R BS.1770-4, annex
2: the waveform is computed at eight times the sample rate (the standard asks for at least four) by
an interpolation filter of 20 samples. Only where the waveform bends can it exceed the neighbouring
samples, and by no more than its bend allows: that is a few thousandths of a track, and only these
are computed. The result is the same as if all were.
"""

import math
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
"""Constants of the standard. Source: ITU-R BS.1770-4, equations 2 and 4 to 7."""
SILENCE_LUFS = float("-inf")
"""Loudness of a track that the absolute gate excludes entirely."""
MEASURED_AT_ONCE = 1 << 20
"""Samples per channel measured at once; bounds the memory for a track that is held whole."""


class LoudnessMeter:
    """Meter of the integrated loudness of a track given block by block.

    Channels weigh the same: exact for mono and stereo, and files with more seldom name their
    channels. A track shorter than one gating block (0.4 s) is measured as if it were repeated to
    fill that block: padding with silence would make a short sound quiet.
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
        """Add the next samples of the track."""
        if (missing := self._block_samples - self._head.shape[1]) > 0:
            self._head = np.concatenate([self._head, audio[:, :missing]], axis=1)
        weighted, self._state = _filter(self._filters, audio, self._state)
        self._add_power(np.einsum("cn,cn->n", weighted, weighted))

    def loudness_lufs(self, gain_db: float = 0.0) -> float:
        """Return the loudness after a gain; `SILENCE_LUFS` if nothing passes the gate.

        Exact for any gain: energies scale with its square, so only the gates are applied anew.
        """
        if self._head.shape[1] == 0:
            return SILENCE_LUFS
        if self._head.shape[1] < self._block_samples:
            repeats = math.ceil(self._block_samples / self._head.shape[1])
            filled = np.tile(self._head, (1, repeats))[:, : self._block_samples]
            return measure_loudness(filled, self._rate_hz, gain_db)
        steps = np.array(self._step_energies + self._last_step())
        blocks = np.convolve(steps, np.ones(STEPS_PER_BLOCK), mode="valid")
        powers = blocks * STEPS_PER_SECOND / (STEPS_PER_BLOCK * self._rate_hz)
        return _gate(powers * 10.0 ** (gain_db / 10.0))

    def _add_power(self, power: Float64[np.ndarray, " N"]) -> None:
        power = np.concatenate([self._pending, power])
        first = len(self._step_energies)
        start = self._edge(first)
        # the last step whose edge is within the samples so far: inverts the rounding in `_edge`
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


def measure_loudness(
    audio: Float32[np.ndarray, "C N"], rate_hz: int, gain_db: float = 0.0
) -> float:
    """Return the integrated loudness in LUFS after a gain, `SILENCE_LUFS` for silence."""
    meter = LoudnessMeter(rate_hz, audio.shape[0])
    for start in range(0, audio.shape[1], MEASURED_AT_ONCE):
        meter.add(audio[:, start : start + MEASURED_AT_ONCE])
    return meter.loudness_lufs(gain_db)


def _k_weighting(rate_hz: int) -> Float64[np.ndarray, "2 6"]:
    stages: tuple[Any, ...] = (
        IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, rate_hz, "high_shelf"),
        IIRfilter(0.0, 0.5, 38.0, rate_hz, "high_pass"),
    )
    return np.array([np.concatenate([stage.b, stage.a]) for stage in stages])


def _filter(
    sections: Float64[np.ndarray, "2 6"],
    audio: Float32[np.ndarray, "C N"],
    state: Float64[np.ndarray, "2 C 2"],
) -> tuple[Float64[np.ndarray, "C N"], Float64[np.ndarray, "2 C 2"]]:
    # in float64, like the filters' coefficients and states
    filtered = cast(Any, signal).sosfilt(sections, audio, axis=1, zi=state)
    return filtered[0], filtered[1]


def _gate(block_powers: Float64[np.ndarray, " N"]) -> float:
    loud = block_powers[block_powers >= _power(ABSOLUTE_GATE_LUFS)]
    if loud.size == 0:
        return SILENCE_LUFS
    relative_gate = loud.mean() * 10.0 ** (RELATIVE_GATE_LU / 10.0)
    # both gates: just above the absolute gate, the relative one lies below it
    counted = loud[loud > relative_gate]
    return OFFSET_LU + 10.0 * math.log10(counted.mean())


def _power(lufs: float) -> float:
    return 10.0 ** ((lufs - OFFSET_LU) / 10.0)


OVERSAMPLING = 8
REACH = 10
"""Samples on each side that an interpolated point depends on."""
TAPS = 2 * REACH
GROUP_BITS = 5
GROUP = 1 << GROUP_BITS
"""Neighbouring gaps between samples that are bounded, and interpolated, together."""
GROUPS_DRAWN = 16
"""Groups interpolated at once; more would make the matrix product start threads."""
BEND_GAIN = 0.41
"""Most that the waveform exceeds the samples at a gap's ends, for each unit of the largest second
difference within the filter's reach: the sum of |c|, where the filter of a point is linear
interpolation plus c applied to second differences; 0.4057 at the middle of the gap."""
SLACK = 0.99
"""Safety factor: the filter's gain and delay equal linear interpolation's only to 0.6 %."""


class TruePeakMeter:
    """Meter of the true peak of a track given block by block; it does not depend on the blocks."""

    def __init__(self, num_channels: int) -> None:
        self._filter = _interpolation_filter()
        self._held: Float32[np.ndarray, "C N"] = np.zeros((num_channels, TAPS), np.float32)
        self._peak = 0.0

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Add the next samples."""
        held = np.concatenate([self._held, audio], axis=1)
        # a group depends on the next one, and second differences on two samples more
        groups = (held.shape[1] - 2) // GROUP - 1
        if groups > 0:
            for channel in held:
                self._add_groups(channel, groups)
            held = held[:, groups * GROUP :]
        self._held = held

    def peak(self) -> float:
        """Return the highest absolute value of the waveform; no more samples may follow."""
        self.add(np.zeros((self._held.shape[0], TAPS + 2 * GROUP), np.float32))
        return self._peak

    def _add_groups(self, samples: Float32[np.ndarray, " N"], groups: int) -> None:
        heights = _highest_of_groups(samples, groups + 1)
        bends = _highest_of_groups(np.diff(samples, 2), groups + 1)
        limits = _pair_up(heights) + BEND_GAIN * _pair_up(bends)
        self._peak = max(self._peak, float(heights.max()))
        candidates = np.flatnonzero(limits > SLACK * self._peak)
        # the highest bounds first: the peaks found there rule most of the others out
        candidates = candidates[np.argsort(-limits[candidates], kind="stable")]
        for first in range(0, len(candidates), GROUPS_DRAWN):
            drawn = candidates[first : first + GROUPS_DRAWN]
            if limits[drawn[0]] <= SLACK * self._peak:
                break
            self._peak = max(self._peak, self._draw(samples, drawn))

    def _draw(self, samples: Float32[np.ndarray, " N"], groups: np.ndarray) -> float:
        starts = groups * GROUP
        rows = samples[starts[:, None] + np.arange(len(self._filter))].astype(np.float64)
        # The rounding of a matrix product depends on its shape and a row's place in it. In float64
        # it is far below the float32 step to which the peak is rounded, so cuts do not matter.
        return float(np.float32(np.abs(rows @ self._filter).max()))


def _interpolation_filter() -> Float64[np.ndarray, "..."]:
    """Build the matrix from the samples that a group depends on to all its interpolated points.

    A windowed sinc as `scipy.signal.resample_poly` designs it.
    """
    taps = cast(Any, signal).firwin(
        2 * REACH * OVERSAMPLING + 1, 1 / OVERSAMPLING, window=("kaiser", 5.0)
    )
    # the taps of one point are eight apart, the latest sample first
    phases = [OVERSAMPLING * taps[phase::OVERSAMPLING][::-1] for phase in range(1, OVERSAMPLING)]
    of_gap = np.array(phases).T
    of_group = np.zeros((GROUP + TAPS - 1, GROUP, OVERSAMPLING - 1))
    for gap in range(GROUP):
        of_group[gap : gap + TAPS, gap] = of_gap
    return of_group.reshape(len(of_group), -1)


def _highest_of_groups(samples: Float32[np.ndarray, " N"], count: int) -> np.ndarray:
    highest = np.abs(samples[: count * GROUP])
    for _ in range(GROUP_BITS):  # by halving: ten times as fast as a maximum over rows of 32
        highest = np.maximum(highest[0::2], highest[1::2])
    return highest


def _pair_up(heights: np.ndarray) -> np.ndarray:
    return np.maximum(heights[:-1], heights[1:])


SILENT_PEAK = 1.0e-10
"""Peak below which a track is silent: -200 dBFS, far below what any converter resolves."""
TOLERANCE_LU = 0.001
REPORTED_LU = 0.02
"""Distance from the target at which a track is reported as too quiet."""
MAX_ROUNDS = 16
"""Most rounds of the search: a new gain moves quiet passages across the absolute gate; two rounds
settle all music."""


@dataclass(frozen=True)
class Gain:
    """Gain of a track, with the loudness before and after."""

    gain_db: float
    loudness_before_lufs: float
    """Loudness before, measured at a full-scale peak so that a quiet recording passes the gate."""
    loudness_after_lufs: float
    peak_dbtp: float
    """True peak after the gain."""
    is_gain_capped: bool
    """True if the target needs more gain than allowed."""
    is_peak_limited: bool
    """True if the target would push the waveform past the ceiling."""

    @property
    def factor(self) -> np.float32:
        """Linear factor of the samples."""
        return np.float32(10.0 ** (self.gain_db / 20.0))


def choose_gain(
    meter: LoudnessMeter,
    true_peak: float,
    *,
    target_lufs: float,
    max_gain_db: float,
    peak_ceiling_dbtp: float,
) -> Gain:
    """Choose the gain that brings a track to the target, or as near as cap and ceiling allow.

    Args:
        meter: Meter that was given the whole track.
        true_peak: Highest absolute value of its waveform.
        target_lufs: Target loudness.
        max_gain_db: Largest amplification; attenuation is not limited.
        peak_ceiling_dbtp: True peak that the result must not exceed.

    Raises:
        AudioError: If the track is not finite or silent.
    """
    if not math.isfinite(true_peak):
        raise AudioError("non-finite: its samples are NaN, infinite or too large to add up")
    if true_peak < SILENT_PEAK:
        raise AudioError("silent: no sample is further than -200 dBFS from zero")
    # works with the peak after the gain, so that the level of the recording plays no part
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
