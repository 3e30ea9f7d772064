"""What a run has to say between its numbers: one event, one line of the log.

Only the trainer and what watches over it make events; the pipeline writes their lines.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Metrics = dict[str, float | int | bool | str]
"""One line of the training log; every loss is in nats per code."""

EventName = Literal["skip", "rollback", "alarm", "collapse", "audit"]


class Event(NamedTuple):
    """Something that happened at one update and that somebody should read."""

    name: EventName
    update: int
    reason: str
    """One plain sentence."""
    values: Mapping[str, float | int | bool | str] = {}
    """Numbers that belong to it, by metric name."""

    def line(self) -> Metrics:
        """The event as a line of the log."""
        return spell_finite({
            "event": self.name,
            "update": self.update,
            "reason": self.reason,
            **self.values,
        })


def spell_finite(metrics: Mapping[str, float | int | bool | str]) -> Metrics:
    """The same metrics with "nan", "inf" and "-inf" as words, for JSON has no such numbers.

    Example:
        >>> spell_finite({"loss": math.nan, "update": 3})
        {'loss': 'nan', 'update': 3}
    """
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
