"""Estimates with bootstrap intervals over independent units, such as tracks."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

_CONFIDENCE = 0.95


class Bootstrap(NamedTuple):
    """Settings of the bootstrap."""

    samples: int
    """Number of resamples of the units: tracks, recordings or free runs."""
    seed: int


class Estimate(NamedTuple):
    """Measured value with its 95 % bootstrap interval; no interval from a single unit."""

    value: float
    low: float | None
    high: float | None


def interval(resampled: Float64[np.ndarray, " _"]) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of resampled values; NaN marks an unusable resample."""
    tail = (1.0 - _CONFIDENCE) / 2
    low, high = np.nanquantile(resampled, [tail, 1.0 - tail])
    return float(low), float(high)
