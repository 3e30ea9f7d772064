"""Stopping on request: SIGINT and SIGTERM ask, the work ends at its next safe point and keeps it.

The first signal only sets a flag; a second one stops at once. The exit code is 128 + signal, so
that DVC and whoever sent it see a stopped run, never a finished one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """The work was asked to stop and has kept its state."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, state kept")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether a signal asked the work to stop, and which."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal_number is not None

    def raise_if_asked(self) -> None:
        """End the stage as stopped.

        Raises:
            StoppedError: If a signal came.
        """
        if self.signal_number is not None:
            raise StoppedError(self.signal_number)

    def note(self, signal_number: int, _: FrameType | None) -> None:
        """Signal handler."""
        if self.signal_number is not None:
            raise StoppedError(signal_number)
        self.signal_number = signal_number


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM while the block runs; earlier handlers return afterwards."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
