"""Schedules: everything that depends on the update, as pure functions of its number, from 1.

There is no state, so a resumed run cannot drift, and one unit: an update, never a micro-batch, a
window or an epoch. The table lists the schedule of a run in advance, with warnings; its rows come
from the functions that the trainer itself calls, so the two cannot differ.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from melodac.errors import ConfigError
from melodac.training.config import TrainConfig


def learning_rate_at(update: int, config: TrainConfig) -> float:
    """Return the learning rate of one update: linear warm-up to the peak, then never upwards.

    The last update has exactly `min_learning_rate_ratio` of the peak, under `constant` the peak.

    Args:
        update: Number of the update, from 1 to the length of the run.
        config: Config of the run.

    Raises:
        ValueError: If the update lies outside the run.

    Source:
        cosine: Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.
        wsd: Hu et al. 2024 (arXiv:2404.06395), section 4, with the linear decay of Hägele et al.
        2024 (arXiv:2405.18392).
    """
    if not 1 <= update <= config.updates:
        raise ValueError(f"update must be between 1 and {config.updates}: got {update}")
    if update <= config.warmup_updates:
        return config.learning_rate * (update / config.warmup_updates)
    floor = config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1.0 - floor) * _share_left(update, config))


def decayed(start: float, update: int, updates: int) -> float:
    """Return a value that decays linearly: `start` at update 1, 0 from `updates` on.

    Args:
        start: Value of the first update.
        update: Number of the update, >= 1.
        updates: First update at 0; 0 keeps the value constant.

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
    """Return a value that rises linearly: 0 up to `first`, `end` from `first + updates` on.

    Args:
        end: Value after the rise.
        update: Number of the update, >= 1.
        first: Last update at 0.
        updates: Length of the rise in updates; 0 is a jump after `first`.

    Example:
        >>> [ramped(0.4, update, first=2, updates=4) for update in (2, 3, 4, 6, 7)]
        [0.0, 0.1, 0.2, 0.4, 0.4]
    """
    if update <= first:
        return 0.0
    return end * (min(update - first, updates) / updates) if updates else end


def context_frames_at(update: int, config: TrainConfig, frames: int) -> int:
    """Return the frames of the windows of one update.

    Args:
        update: Number of the update, >= 1.
        config: Config of the run.
        frames: Frames of the index's windows, which no stage may exceed.

    Raises:
        ConfigError: If a stage of `context` has longer windows than the index.
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


LONG_WARMUP = 0.2
"""Share of a run above which its warm-up gets a warning."""


class ScheduleRow(NamedTuple):
    """Row of the schedule table: one update of a run to come."""

    update: int
    event: str
    """Events at this update, such as the end of warm-up."""
    learning_rate: float
    frames: int
    """Frames of a window."""
    quantities: Mapping[str, float]
    """Value of every bonus and share that the config uses, by its key in params.yaml."""
    epoch: float | None
    """Passes over the training windows after this update; None if the data is not known."""


def schedule_table(
    config: TrainConfig, frames: int, *, epoch_after: Callable[[int], float] | None = None
) -> list[ScheduleRow]:
    """Return one row for every update at which something begins or ends, in order.

    Args:
        config: Config of the run.
        frames: Frames of the index's windows.
        epoch_after: `WindowOrder.epoch_after`, if the data is at hand.
    """
    return [
        ScheduleRow(
            update=update,
            event=", ".join(events),
            learning_rate=learning_rate_at(update, config),
            frames=context_frames_at(update, config, frames),
            quantities=quantities_at(update, config),
            epoch=None if epoch_after is None else epoch_after(update),
        )
        for update, events in sorted(_events(config).items())
        if 1 <= update <= config.updates
    ]


def quantities_at(update: int, config: TrainConfig) -> dict[str, float]:
    """Return every bonus and share of corruption that the config uses, at one update."""
    found = {
        name: decayed(start, update, updates)
        for name, (start, updates) in _decaying(config).items()
        if start
    }
    corruption = config.corruption
    if corruption.own_codes:
        found["own_codes"] = ramped(
            corruption.own_codes, update, corruption.own_codes_from, corruption.own_codes_updates
        )
    return found


def schedule_warnings(config: TrainConfig) -> list[str]:
    """Return one plain sentence for each setting that is allowed but rarely meant."""
    share = config.warmup_updates / config.updates
    checks = {
        f"the warm-up takes {config.warmup_updates} of {config.updates} updates ({share:.0%}): "
        "most of the run would learn slowly, lower train.warmup_updates": share > LONG_WARMUP,
        "train.schedule is wsd with decay_updates 0: the rate never falls, set decay_updates or "
        "say constant": config.schedule == "wsd" and not config.decay_updates,
        f"train.decay_updates is {config.decay_updates}, which train.schedule {config.schedule} "
        "does not read: only wsd does": bool(config.decay_updates) and config.schedule != "wsd",
        "train.min_learning_rate_ratio is 1, so train.schedule "
        f"{config.schedule} never falls": config.schedule != "constant"
        and config.min_learning_rate_ratio == 1.0,
    }
    warnings = [text for text, holds in checks.items() if holds]
    return warnings + _decay_warnings(config) + _reach_warnings(config)


def format_schedule(rows: list[ScheduleRow]) -> str:
    """Format the rows as an aligned table of text with a header line."""
    names = list(rows[0].quantities) if rows else []
    head = ["update", "epoch", "learning_rate", "frames", *names, "event"]
    lines = [head] + [
        [
            str(row.update),
            "-" if row.epoch is None else f"{row.epoch:.2f}",
            f"{row.learning_rate:.3g}",
            str(row.frames),
            *(f"{row.quantities[name]:.3g}" for name in names),
            row.event,
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            # numbers are right-aligned, the words of the last column are not
            cell.rjust(width) if column < len(head) - 1 else cell
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _events(config: TrainConfig) -> dict[int, list[str]]:
    events: dict[int, list[str]] = {}

    def add(update: int, text: str) -> None:
        events.setdefault(update, []).append(text)

    add(1, "first update")
    if config.warmup_updates:
        add(config.warmup_updates, "warm-up ends")
    for first, frames in config.context[1:]:
        add(first, f"windows of {frames} frames")
    if config.schedule == "wsd" and config.decay_updates:
        add(config.updates - config.decay_updates, "last update at the peak")
    for name, end in _ends(config).items():
        add(end, f"{name} has fallen to 0")
    corruption = config.corruption
    if corruption.own_codes:
        add(corruption.own_codes_from + 1, "own_codes begins")
        add(
            corruption.own_codes_from + max(1, corruption.own_codes_updates),
            "own_codes is at its full share",
        )
    add(config.updates, "last update")
    return events


def _decaying(config: TrainConfig) -> dict[str, tuple[float, int]]:
    """Return the first value of each quantity that may decay, and the update at which it is 0."""
    objective, corruption = config.objective, config.corruption
    return {
        "entropy_bonus": (objective.entropy_bonus, objective.entropy_updates),
        "usage_bonus": (objective.usage_bonus, objective.usage_updates),
        "token_noise": (corruption.token_noise, corruption.token_noise_updates),
    }


def _ends(config: TrainConfig) -> dict[str, int]:
    return {name: end for name, (start, end) in _decaying(config).items() if start and end}


def _decay_warnings(config: TrainConfig) -> list[str]:
    return [
        f"{name} has fallen to 0 at update {end}, before the warm-up ends at update "
        f"{config.warmup_updates}: it would act on an untrained model only, raise its updates"
        for name, end in _ends(config).items()
        if end <= config.warmup_updates
    ] + [
        f"{name} would have fallen to 0 at update {end}, after the run of {config.updates} "
        "updates: it acts to the end"
        for name, end in _ends(config).items()
        if end > config.updates
    ]


def _reach_warnings(config: TrainConfig) -> list[str]:
    corruption = config.corruption
    warnings: list[str] = []
    if corruption.own_codes and corruption.own_codes_from >= config.updates:
        warnings.append(
            f"own_codes begins after update {corruption.own_codes_from}, the run has "
            f"{config.updates}: it never acts"
        )
    elif (
        corruption.own_codes
        and corruption.own_codes_from + corruption.own_codes_updates > config.updates
    ):
        warnings.append(
            "own_codes would reach its full share at update "
            f"{corruption.own_codes_from + corruption.own_codes_updates}, after the run of "
            f"{config.updates} updates"
        )
    if config.updates < config.validate_every:
        warnings.append(
            f"train.validate_every is {config.validate_every}, the run has {config.updates} "
            "updates: only its end is validated"
        )
    return warnings
