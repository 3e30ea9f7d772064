"""Logging set-up and progress bars of the stages.

Bars are drawn only on a terminal: in a pipe or a log file they would be noise. Whoever wants to
watch without a terminal registers a listener (the Prefect bridge does).
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
ProgressListener = Callable[[str, int, int], None]

_listeners: list[ProgressListener] = []
LISTENER_INTERVAL_S = 2.0


def set_up_logging() -> None:
    """One line a message, to standard error, with the time and the module."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )


def add_progress_listener(listener: ProgressListener) -> None:
    """Call `listener(description, done, total)` every few seconds while a bar runs."""
    _listeners.append(listener)


def progress(items: Iterable[Item], *, total: int, unit: str, description: str) -> Iterator[Item]:
    """Pass items through, drawing a bar on a terminal and telling the listeners."""
    is_terminal = sys.stderr.isatty()
    bar = tqdm(items, total=total, unit=unit, desc=description, disable=not is_terminal)
    last_s = float("-inf")
    for done, item in enumerate(bar):
        if _listeners and time.monotonic() - last_s > LISTENER_INTERVAL_S:
            _tell(description, done, total)
            last_s = time.monotonic()
        yield item
    _tell(description, total, total)


def _tell(description: str, done: int, total: int) -> None:
    for listener in _listeners:
        listener(description, done, total)
