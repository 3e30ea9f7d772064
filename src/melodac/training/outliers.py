"""One value against its accepted past: median and median absolute deviation, high side only.

Both give way to no single value, however wild, and the past holds only what was accepted.

Source:
    Rousseeuw and Croux 1993, "Alternatives to the Median Absolute Deviation", for the constant;
    OLMo-core `SkipStepOptimizer` for skipping updates by a rolling window (there mean and standard
    deviation, which one accepted NaN or spike spoils).
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

ENOUGH = 16
"""Accepted values from which a median deviation means something: with 8, one of 200 sound values
with heavy tails lies 8 deviations out, with 16 one of 1000."""

LEAP = math.log(100.0)
"""Rise above the largest accepted value that is refused while too few are known for a median."""

_CONSISTENT = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


class Outliers:
    """The last accepted values of one quantity, and whether a new one fits in."""

    def __init__(self, window: int, *, least: float, harmless: float = -math.inf) -> None:
        """Begin without a past.

        Args:
            window: Values remembered.
            least: Least deviation; a past without noise must not make every ripple an outlier.
            harmless: Level that can do no harm: a past below it is taken to lie at it.
        """
        self._least = least
        self._harmless = harmless
        self._enough = min(ENOUGH, window)
        self._known: deque[float] = deque(maxlen=window)

    @property
    def is_full(self) -> bool:
        """Whether a whole window is known."""
        return len(self._known) == self._known.maxlen

    @property
    def level(self) -> float:
        """Median of what is known, which must be something."""
        return median(self._known)

    @property
    def values(self) -> list[float]:
        """What is known, oldest first."""
        return list(self._known)

    def add(self, value: float) -> None:
        """Remember an accepted, finite value."""
        self._known.append(value)

    def replace(self, values: Iterable[float]) -> None:
        """Know only these."""
        self._known = deque(values, self._known.maxlen)

    def objection(self, name: str, value: float, sigma: float) -> str | None:
        """Why a value does not fit in, or None if it does.

        Args:
            name: What the value is, for the sentence.
            value: A finite value.
            sigma: Robust standard deviations above the median that are still accepted.
        """
        if not self._known:
            return None
        if len(self._known) < self._enough:
            leap = value - max(*self._known, self._harmless)
            return f"{name} leaps up by {leap:.3g}, more than {LEAP:.3g}" if leap > LEAP else None
        # each value is lifted, not the median alone: else the spread of harmless values counts too
        known = [max(value, self._harmless) for value in self._known]
        level = median(known)
        spread = median(abs(value - level) for value in known)
        excess = (value - level) / max(_CONSISTENT * spread, self._least)
        if excess <= sigma:
            return None
        return (
            f"{name} is {excess:.1f} deviations above the median {level:.4g} of the last "
            f"{len(known)} accepted updates, more than {sigma:g}"
        )
