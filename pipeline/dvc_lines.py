"""What `dvc repro` and `dvc exp run` print about stages, turned into events for the picture.

DVC has no hooks, so its three log lines are all there is. Should they change, the picture loses its
nodes and nothing else: success comes from DVC's exit code.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

What = Literal["runs", "unchanged", "restored"]

# Colours, cursor movements and window titles.
_CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_PATTERNS: tuple[tuple[What, re.Pattern[str]], ...] = (
    ("runs", re.compile(r"^Running stage '([^']+)':$")),
    ("unchanged", re.compile(r"^Stage '([^']+)' didn't change, skipping$")),
    ("restored", re.compile(r"^Stage '([^']+)' is cached - skipping run, checking out outputs$")),
)
MAX_LINE_BYTES = 65_536


class StageEvent(NamedTuple):
    """One stage starts to run, or is skipped, and why."""

    stage: str
    what: What


def parse_line(line: str) -> StageEvent | None:
    """The event a line tells of, if any.

    >>> parse_line("Stage 'train' didn't change, skipping")
    StageEvent(stage='train', what='unchanged')
    """
    for what, pattern in _PATTERNS:
        found = pattern.match(line)
        if found:
            return StageEvent(found.group(1), what)
    return None


class LineSplitter:
    r"""Turns chunks of terminal output into clean lines.

    Of a line that was drawn over with `\r`, as progress bars do, only what is left to see counts.
    """

    def __init__(self) -> None:
        """Nothing is pending at first."""
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines this chunk completes, without control sequences."""
        *whole, self._pending = (self._pending + chunk).split(b"\n")
        self._pending = self._pending[-MAX_LINE_BYTES:]
        for line in whole:
            text = line.decode("utf-8", errors="replace").rstrip("\r")
            yield _CONTROL.sub("", text.rpartition("\r")[2]).rstrip()
