"""True peak: the highest point of the waveform between the samples, after ITU-R BS.1770-4, annex 2.

The waveform is drawn eight times as finely as the samples (the standard asks for at least four) by
an interpolation filter of 20 samples. Only where the waveform bends can it pass the samples beside
it, and by no more than its bend allows: a few thousandths of a track, and only those are drawn. The
answer is the same as if all were. Any module above may import it.
"""

from typing import Any, cast

import numpy as np
from jaxtyping import Float32
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none

OVERSAMPLING = 8
REACH = 10
"""Samples on each side that a point between two samples depends on."""
TAPS = 2 * REACH
GROUP_BITS = 5
GROUP = 1 << GROUP_BITS
"""Neighbouring gaps that are judged, and drawn, together."""
GROUPS_DRAWN = 16
"""At once; fewer than would make the matrix product start threads."""
BEND_GAIN = 0.41
"""Most that the waveform rises above the samples at a gap's ends, for each unit of the largest
second difference within the filter's reach: the sum of |c|, where the filter of a point is linear
interpolation plus c applied to second differences; 0.4057 at the middle of the gap."""
SLACK = 0.99
"""The filter's gain and delay are those of linear interpolation only to 0.6 %."""


class TruePeakMeter:
    """Highest point of a track given block by block; however it is cut, the same."""

    def __init__(self, num_channels: int) -> None:
        self._filter = _interpolation_filter()
        self._held: Float32[np.ndarray, "C N"] = np.zeros((num_channels, TAPS), np.float32)
        self._peak = 0.0

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Take the next samples."""
        held = np.concatenate([self._held, audio], axis=1)
        # a group reaches into the next one, and second differences two samples further
        groups = (held.shape[1] - 2) // GROUP - 1
        if groups > 0:
            for channel in held:
                self._add_groups(channel, groups)
            held = held[:, groups * GROUP :]
        self._held = held

    def peak(self) -> float:
        """Highest absolute value of the waveform; no more samples may follow."""
        self.add(np.zeros((self._held.shape[0], TAPS + 2 * GROUP), np.float32))
        return self._peak

    def _add_groups(self, samples: Float32[np.ndarray, " N"], groups: int) -> None:
        heights = _highest_of_groups(samples, groups + 1)
        bends = _highest_of_groups(np.diff(samples, 2), groups + 1)
        limits = _pair_up(heights) + BEND_GAIN * _pair_up(bends)
        self._peak = max(self._peak, float(heights.max()))
        candidates = np.flatnonzero(limits > SLACK * self._peak)
        # the most promising first: what they reach rules most of the others out
        candidates = candidates[np.argsort(-limits[candidates], kind="stable")]
        for first in range(0, len(candidates), GROUPS_DRAWN):
            drawn = candidates[first : first + GROUPS_DRAWN]
            if limits[drawn[0]] <= SLACK * self._peak:
                break
            self._peak = max(self._peak, self._draw(samples, drawn))

    def _draw(self, samples: Float32[np.ndarray, " N"], groups: np.ndarray) -> float:
        # always as many rows, since the rounding of a matrix product depends on its shape
        starts = np.resize(groups, GROUPS_DRAWN) * GROUP
        points = samples[starts[:, None] + np.arange(len(self._filter))] @ self._filter
        return float(np.abs(points).max())


def _interpolation_filter() -> Float32[np.ndarray, "..."]:
    """From the samples of a group and those it reaches into to all points of the group.

    A windowed sinc as `scipy.signal.resample_poly` designs it.
    """
    taps = cast(Any, signal).firwin(
        2 * REACH * OVERSAMPLING + 1, 1 / OVERSAMPLING, window=("kaiser", 5.0)
    )
    # the taps of one point lie eight apart, the latest sample first
    phases = [OVERSAMPLING * taps[phase::OVERSAMPLING][::-1] for phase in range(1, OVERSAMPLING)]
    of_gap = np.array(phases, np.float32).T
    of_group = np.zeros((GROUP + TAPS - 1, GROUP, OVERSAMPLING - 1), np.float32)
    for gap in range(GROUP):
        of_group[gap : gap + TAPS, gap] = of_gap
    return of_group.reshape(len(of_group), -1)


def _highest_of_groups(samples: Float32[np.ndarray, " N"], count: int) -> np.ndarray:
    highest = np.abs(samples[: count * GROUP])
    for _ in range(GROUP_BITS):  # in halves: ten times as fast as a maximum over rows of 32
        highest = np.maximum(highest[0::2], highest[1::2])
    return highest


def _pair_up(heights: np.ndarray) -> np.ndarray:
    return np.maximum(heights[:-1], heights[1:])
