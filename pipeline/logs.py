"""Logging set-up and progress bars of the stages.

Bars are drawn only on a terminal: in a pipe or a log file they would be noise. Whoever wants to
watch without a terminal registers a listener (the Prefect bridge does).
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
ProgressListener = Callable[[str, int, int], None]
Advance = Callable[[str], None]

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


@contextmanager
def progress_bar(*, total: int, unit: str, description: str, done: int = 0) -> Iterator[Advance]:
    """A bar for work that reports by itself: call what this yields, with a note, once a unit.

    Args:
        total: Units of the whole work.
        unit: What is counted.
        description: What is being done.
        done: Units that an earlier run did.
    """
    bar = tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=description,
        disable=not sys.stderr.isatty(),
    )
    count = done
    told_s = float("-inf")

    def advance(note: str = "") -> None:
        nonlocal count, told_s
        count += 1
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update()
        if count == total or time.monotonic() - told_s > LISTENER_INTERVAL_S:
            told_s = time.monotonic()
            for listener in _listeners:
                listener(description, count, total)

    with bar:
        yield advance


def progress(items: Iterable[Item], *, total: int, unit: str, description: str) -> Iterator[Item]:
    """Pass items through, drawing a bar on a terminal and telling the listeners."""
    with progress_bar(total=total, unit=unit, description=description) as advance:
        for item in items:
            yield item
            advance("")
