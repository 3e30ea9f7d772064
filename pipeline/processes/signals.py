"""Graceful stop on SIGINT and SIGTERM: the work saves its state at its next safe point and ends.

The first signal only sets a flag; a second one stops at once. Several processes that share their
work stop at the same point, whichever of them got the signal. The exit code is 128 + signal, so
that DVC and the sender see a stopped run, never a finished one.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """Stop of the work by a signal; its last saved state is good."""

    def __init__(self, signal_number: int, *, is_orderly: bool = False) -> None:
        """Compose the message and the exit code.

        Args:
            signal_number: The signal.
            is_orderly: True if the work reached its safe point, together with all processes.
        """
        kept = "state kept" if is_orderly else "at once, the last state that was kept is good"
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, {kept}")
        self.exit_code = 128 + signal_number
        self.is_orderly = is_orderly


def _alone(signal_number: int) -> int:
    return signal_number


class StopRequest:
    """Flag that a signal sets to request a stop."""

    def __init__(self, agree: Callable[[int], int] = _alone) -> None:
        """Start without a request.

        Args:
            agree: Makes a signal number (0 for none) common to all processes of the work. With
                several, it is a collective call: all must check for a stop at the same points.
        """
        self.signal_number: int | None = None
        self._agree = agree

    def __call__(self) -> bool:
        """Check whether to stop."""
        return bool(self._agree(self.signal_number or 0))

    def raise_if_asked(self) -> None:
        """End the stage as stopped if a signal came.

        Raises:
            StoppedError: If a signal came.
        """
        signal_number = self._agree(self.signal_number or 0)
        if signal_number:
            raise StoppedError(signal_number, is_orderly=True)

    def note(self, signal_number: int, _: FrameType | None) -> None:
        """Handle a signal: set the flag, or stop at once if it is set already."""
        if self.signal_number is not None:
            raise StoppedError(signal_number)
        self.signal_number = signal_number


@contextmanager
def stop_on_signal(agree: Callable[[int], int] = _alone) -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM while the block runs; restores the earlier handlers afterwards."""
    request = StopRequest(agree)
    before = {number: signal.signal(number, request.note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
