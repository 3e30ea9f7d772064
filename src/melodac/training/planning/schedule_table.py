"""What a run will do, before it does it: its schedules as a table, and what looks wrong in them.

Every row is computed by the functions that the trainer itself calls, so the table cannot promise
anything else. Nothing is trained or read.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from melodac.training.config import TrainConfig
from melodac.training.schedule import context_frames_at, decayed, learning_rate_at, ramped

LONG_WARMUP = 0.2
"""Share of a run above which its warm-up is remarked on."""


class ScheduleRow(NamedTuple):
    """One update of a run to come."""

    update: int
    event: str
    """What begins or ends here."""
    learning_rate: float
    frames: int
    """Frames of a window."""
    quantities: Mapping[str, float]
    """Value of every bonus and share that is on in the config, by its key in params.yaml."""
    epoch: float | None
    """Passes over the training windows done after this update; None if the data is not known."""


def schedule_table(
    config: TrainConfig, frames: int, *, epoch_after: Callable[[int], float] | None = None
) -> list[ScheduleRow]:
    """Every update at which something begins or ends, in order.

    Args:
        config: The run.
        frames: Frames of the index's windows.
        epoch_after: `WindowOrder.epoch_after`, where the data is at hand.
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
    """Every bonus of the objective and share of the corruption that is on, at one update."""
    objective, corruption = config.objective, config.corruption
    values = {
        "entropy_bonus": (objective.entropy_bonus, objective.entropy_updates),
        "usage_bonus": (objective.usage_bonus, objective.usage_updates),
        "token_noise": (corruption.token_noise, corruption.token_noise_updates),
    }
    found = {
        name: decayed(start, update, updates) for name, (start, updates) in values.items() if start
    }
    if corruption.own_codes:
        found["own_codes"] = ramped(
            corruption.own_codes, update, corruption.own_codes_from, corruption.own_codes_updates
        )
    return found


def schedule_warnings(config: TrainConfig) -> list[str]:
    """What is allowed and yet rarely meant, one plain sentence each."""
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
    """The rows as text, aligned, one line each under a line of names."""
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
            # numbers end under one another, the last column is words
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


def _ends(config: TrainConfig) -> dict[str, int]:
    objective, corruption = config.objective, config.corruption
    ends = {
        "entropy_bonus": (objective.entropy_bonus, objective.entropy_updates),
        "usage_bonus": (objective.usage_bonus, objective.usage_updates),
        "token_noise": (corruption.token_noise, corruption.token_noise_updates),
    }
    return {name: end for name, (start, end) in ends.items() if start and end}


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
