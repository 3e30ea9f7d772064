"""Estimates with bootstrap intervals: what is drawn anew is what was sampled from the world."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

_CONFIDENCE = 0.95


class Bootstrap(NamedTuple):
    """How the intervals are drawn."""

    samples: int
    """Resamples of what was sampled: tracks, recordings, free runs."""
    seed: int


class Estimate(NamedTuple):
    """A measured value with its 95 % bootstrap interval; no interval from a single track."""

    value: float
    low: float | None
    high: float | None


def interval(resampled: Float64[np.ndarray, " _"]) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of resampled values; NaN marks an unusable resample."""
    tail = (1.0 - _CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1.0 - tail])
    return float(low), float(high)
