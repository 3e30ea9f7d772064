"""Logging set-up and progress reports.

On a terminal a bar is drawn. In a pipe or a log file, where a bar would be noise, long work logs a
plain line every half minute, even while a single unit of it lasts. Other reporters, such as the
Prefect bridge, register a listener.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
ProgressListener = Callable[[str, int, int], None]


class Advance(Protocol):
    """Callback for each finished unit of the work."""

    def __call__(self, note: str = "") -> None:
        """Count one unit and show a note next to the count."""
        ...


_listeners: list[ProgressListener] = []
LISTENER_INTERVAL_S = 2.0
"""Shortest time between two calls of the listeners."""
LINE_INTERVAL_S = 30.0
"""Time between two progress lines without a terminal; shorter work logs none."""

log = logging.getLogger("pipeline")


def set_up_logging() -> None:
    """Log one line per message to standard error, with time, level and logger name."""
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
    """Show the progress of work that calls the yielded `Advance` once per unit.

    Args:
        total: Units of the whole work.
        unit: Name of a unit, in the singular.
        description: Name of the work.
        done: Units that an earlier run finished.
    """
    is_terminal = sys.stderr.isatty()
    bar = tqdm(total=total, initial=done, unit=unit, desc=description, disable=not is_terminal)
    count, said = done, ""
    started_s = time.monotonic()
    told_s = float("-inf")

    def advance(note: str = "") -> None:
        nonlocal count, said, told_s
        count += 1
        if note:
            said = f", {note}"
            bar.set_postfix_str(note, refresh=False)
        bar.update()
        if count == total or time.monotonic() - told_s > LISTENER_INTERVAL_S:
            told_s = time.monotonic()
            for listener in _listeners:
                listener(description, count, total)

    def say() -> None:
        elapsed_s = time.monotonic() - started_s
        left = "time left unknown"
        if count > done:
            left_s = elapsed_s / (count - done) * (total - count)
            left = f"about {tqdm.format_interval(left_s)} left"
        log.info(
            "%s: %d of %d %ss (%.0f %%), %s elapsed, %s%s",
            description,
            count,
            total,
            unit,
            100 * count / max(total, 1),
            tqdm.format_interval(elapsed_s),
            left,
            said,
        )

    with bar, nullcontext() if is_terminal else _every(LINE_INTERVAL_S, say):
        yield advance


@contextmanager
def _every(interval_s: float, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` every `interval_s` seconds in a thread while the with-block runs."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(interval_s):
            step()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def progress(items: Iterable[Item], *, total: int, unit: str, description: str) -> Iterator[Item]:
    """Yield the items and show how many have been consumed."""
    with progress_bar(total=total, unit=unit, description=description) as advance:
        for item in items:
            yield item
            advance()
