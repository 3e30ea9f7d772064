"""Events of a run, logged between its metrics: one event, one line of the log.

Only the trainer and its guards create events; the pipeline writes their lines.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Metrics = dict[str, float | int | bool | str]
"""One line of the training log; every loss is in nats per code."""

EventName = Literal["skip", "rollback", "alarm", "collapse", "audit"]


class Event(NamedTuple):
    """Event at one update that a person should read about."""

    name: EventName
    update: int
    reason: str
    """Explanation in one plain sentence."""
    values: Mapping[str, float | int | bool | str] = {}
    """Numbers of the event, by metric name."""

    def line(self) -> Metrics:
        """Return the event as a line of the log."""
        return spell_finite({
            "event": self.name,
            "update": self.update,
            "reason": self.reason,
            **self.values,
        })


def spell_finite(metrics: Mapping[str, float | int | bool | str]) -> Metrics:
    """Return metrics with "nan", "inf" and "-inf" as words, since JSON has no such numbers.

    Example:
        >>> spell_finite({"loss": math.nan, "update": 3})
        {'loss': 'nan', 'update': 3}
    """
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
