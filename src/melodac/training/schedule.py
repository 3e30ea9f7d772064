"""The learning rate as a pure function of the update, counted from 1.

Linear warm-up, then half a cosine down to a floor; no state, so a resumed run cannot drift.
Training and the pipeline may import this file.
"""

import math


def learning_rate_at(
    update: int, *, peak: float, min_ratio: float, warmup_updates: int, updates: int
) -> float:
    """Learning rate of one update.

    Args:
        update: Number of the update, from 1 to `updates`.
        peak: Highest rate, reached at the end of the warm-up.
        min_ratio: Rate of the last update, as a fraction of `peak`.
        warmup_updates: Updates of linear rise; 0 starts at the peak.
        updates: Length of the whole run in updates.

    Raises:
        ValueError: If the update lies outside the run.

    Example:
        >>> [
        ...     round(
        ...         learning_rate_at(u, peak=1.0, min_ratio=0.1, warmup_updates=2, updates=6), 3
        ...     )
        ...     for u in range(1, 7)
        ... ]
        [0.5, 1.0, 0.868, 0.55, 0.232, 0.1]

    Source:
        Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.
    """
    if not 1 <= update <= updates:
        raise ValueError(f"update must be between 1 and {updates}: got {update}")
    if update <= warmup_updates:
        return peak * (update / warmup_updates)
    progress = (update - warmup_updates) / max(1, updates - warmup_updates)
    return peak * (min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress)))
