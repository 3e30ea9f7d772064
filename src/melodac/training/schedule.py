"""Everything that changes with the update, as pure functions of its number, counted from 1.

No state, so a resumed run cannot drift, and one unit: an update, never a part of one, a window or
an epoch.
"""

import math

from melodac.errors import ConfigError
from melodac.training.config import TrainConfig


def learning_rate_at(update: int, config: TrainConfig) -> float:
    """Learning rate of one update: a linear rise to the peak, then never upwards again.

    The last update has exactly `min_learning_rate_ratio` of the peak, under `constant` the peak.

    Args:
        update: Number of the update, from 1 to the length of the run.
        config: The run.

    Raises:
        ValueError: If the update lies outside the run.

    Source:
        cosine: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.
        wsd: Hu et al. 2024 (arXiv:2404.06395), section 4, its fall linear as in Hägele et al. 2024
        (arXiv:2405.18392).
    """
    if not 1 <= update <= config.updates:
        raise ValueError(f"update must be between 1 and {config.updates}: got {update}")
    if update <= config.warmup_updates:
        return config.learning_rate * (update / config.warmup_updates)
    floor = config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1.0 - floor) * _share_left(update, config))


def decayed(start: float, update: int, updates: int) -> float:
    """A quantity that falls in a straight line: `start` at update 1, 0 from `updates` on.

    Args:
        start: Value of the first update.
        update: Number of the update, >= 1.
        updates: First update at 0; 0 never lets it fall.

    Example:
        >>> [decayed(0.4, update, 5) for update in (1, 3, 5, 6)]
        [0.4, 0.2, 0.0, 0.0]
        >>> decayed(0.4, 1000, 0)
        0.4
    """
    if updates == 0:
        return start
    return start * (max(0, updates - update) / max(1, updates - 1))


def ramped(end: float, update: int, first: int, updates: int) -> float:
    """A quantity that rises in a straight line: 0 up to `first`, `end` from `first + updates` on.

    Args:
        end: Value after the rise.
        update: Number of the update, >= 1.
        first: Last update at 0.
        updates: Updates the rise takes; 0 is a jump after `first`.

    Example:
        >>> [ramped(0.4, update, first=2, updates=4) for update in (2, 3, 4, 6, 7)]
        [0.0, 0.1, 0.2, 0.4, 0.4]
    """
    if update <= first:
        return 0.0
    return end * (min(update - first, updates) / updates) if updates else end


def context_frames_at(update: int, config: TrainConfig, frames: int) -> int:
    """Frames of the windows of one update.

    Args:
        update: Number of the update, >= 1.
        config: The run.
        frames: Frames of the index's windows, which no stage may exceed.

    Raises:
        ConfigError: If a stage of `context` asks for longer windows than the index cuts.
    """
    longest = max((stage_frames for _, stage_frames in config.context), default=frames)
    if longest > frames:
        raise ConfigError(
            f"train.context has a stage of {longest} frames, the index cuts windows of {frames}: "
            "raise index.window_frames or shorten the stage"
        )
    begun = [stage_frames for first, stage_frames in config.context if first <= update]
    return begun[-1] if begun else frames


def _share_left(update: int, config: TrainConfig) -> float:
    left = config.updates - update
    match config.schedule:
        case "constant":
            return 1.0
        case "linear":
            return left / (config.updates - config.warmup_updates)
        case "cosine":
            progress = (update - config.warmup_updates) / (config.updates - config.warmup_updates)
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "wsd":
            return min(1.0, left / config.decay_updates) if config.decay_updates else 1.0
