"""Stopping on request: SIGINT and SIGTERM ask, the work ends at its next safe point and keeps it.

The first signal only sets a flag; a second one stops at once. Several processes that share their
work stop at the same point, whichever of them was asked. The exit code is 128 + signal, so
that DVC and whoever sent it see a stopped run, never a finished one.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """The work was asked to stop and has kept its state."""

    def __init__(self, signal_number: int, *, is_orderly: bool = False) -> None:
        """Say which signal it was.

        Args:
            signal_number: The signal.
            is_orderly: Whether the work came to its safe point, together with all processes.
        """
        kept = "state kept" if is_orderly else "at once, the last state that was kept is good"
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, {kept}")
        self.exit_code = 128 + signal_number
        self.is_orderly = is_orderly


def _alone(signal_number: int) -> int:
    return signal_number


class StopRequest:
    """Whether a signal asked the work to stop, and which."""

    def __init__(self, agree: Callable[[int], int] = _alone) -> None:
        """Nothing was asked yet.

        Args:
            agree: Makes a signal number common to all processes of the work, 0 for none; then all
                of them ask at the same points.
        """
        self.signal_number: int | None = None
        self._agree = agree

    def __call__(self) -> bool:
        """Whether to stop."""
        return bool(self._agree(self.signal_number or 0))

    def raise_if_asked(self) -> None:
        """End the stage as stopped.

        Raises:
            StoppedError: If a signal came.
        """
        signal_number = self._agree(self.signal_number or 0)
        if signal_number:
            raise StoppedError(signal_number, is_orderly=True)

    def note(self, signal_number: int, _: FrameType | None) -> None:
        """Signal handler."""
        if self.signal_number is not None:
            raise StoppedError(signal_number)
        self.signal_number = signal_number


@contextmanager
def stop_on_signal(agree: Callable[[int], int] = _alone) -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM while the block runs; earlier handlers return afterwards."""
    request = StopRequest(agree)
    before = {number: signal.signal(number, request.note) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
