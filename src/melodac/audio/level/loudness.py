"""Loudness after ITU-R BS.1770.

The meter takes a track in blocks and keeps ten energies a second, so its memory is a ten-thousandth
of the track, and it can say how loud the track would be after any gain. Filters are those of
pyloudnorm; only this module imports it.
"""

import math
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Float64
from pyloudnorm.iirfilter import IIRfilter  # pyright: ignore[reportMissingTypeStubs]  it has none
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none

STEPS_PER_SECOND = 10
STEPS_PER_BLOCK = 4
"""Gating blocks of 0.4 s that start every 0.1 s."""
ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
OFFSET_LU = -0.691
"""Source: ITU-R BS.1770-4, equations 2 and 4 to 7."""
SILENCE_LUFS = float("-inf")
"""What the meter says of a track that the absolute gate keeps out entirely."""
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
        weighted, self._state = _filter(self._filters, audio, self._state)
        self._add_power(np.einsum("cn,cn->n", weighted, weighted))

    def loudness_lufs(self, gain_db: float = 0.0) -> float:
        """Loudness of all that was taken, after a gain; `SILENCE_LUFS` if nothing passes the gate.

        Exact for any gain: energies scale with its square, only the gates must be asked anew.
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
    """Integrated loudness in LUFS after a gain, `SILENCE_LUFS` for silence."""
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
    # in float64: that is what the filters' coefficients and states are
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
