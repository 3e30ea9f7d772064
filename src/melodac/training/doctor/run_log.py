"""The lines of a training log, sorted by what they tell: updates, validations, events.

What is not finite is a word in a log, as JSON has no such numbers; here it is a number again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

Line = Mapping[str, Any]
_WORDS = frozenset({"nan", "inf", "-inf"})


class RunLog(NamedTuple):
    """What a run said about itself."""

    train: tuple[Line, ...]
    """Every update, refused ones too."""
    accepted: tuple[Line, ...]
    """Updates that changed a weight."""
    validations: tuple[Line, ...]
    events: tuple[Line, ...]

    def updates(self) -> Int64[np.ndarray, " _"]:
        """Numbers of the accepted updates."""
        return np.array([line["update"] for line in self.accepted], dtype=np.int64)

    def losses(self) -> Float64[np.ndarray, " _"]:
        """Loss of each accepted update, in nats per code."""
        return np.array([line["loss"] for line in self.accepted], dtype=np.float64)

    def num_events(self, event: str) -> int:
        """How often an event of that name was logged."""
        return sum(line.get("event") == event for line in self.events)


def read_run(lines: Sequence[Line]) -> RunLog:
    """Sort the lines of a log by kind; their order stays."""
    read = [
        {key: float(value) if value in _WORDS else value for key, value in line.items()}
        for line in lines
    ]
    train = tuple(line for line in read if line["kind"] == "train")
    return RunLog(
        train,
        tuple(line for line in train if not line.get("is_skipped", False)),
        tuple(line for line in read if line["kind"] == "validation"),
        tuple(line for line in read if line["kind"] == "event"),
    )


def late_window(count: int) -> int:
    """Updates that stand for "now": a tenth of the run, 10 to 200."""
    return int(np.clip(count // 10, 10, 200))
