"""The next update is read by a second thread while the present one is computed.

What is read is a pure function of the update, so reading ahead changes nothing but time. One thread
lives as long as the run.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from melodac.errors import TrainingError

Read = TypeVar("Read")


class Prefetcher(Generic[Read]):
    """Reads updates in order, some of them ahead of being asked for; a context manager."""

    def __init__(
        self, read: Callable[[int], Read], first: int, last: int, *, depth: int = 1
    ) -> None:
        """Start to read the first update.

        Args:
            read: Reads an update; called from one thread only, never twice at once.
            first: Update that is asked for first.
            last: Update after which nothing is read.
            depth: Updates read ahead; 0 reads when asked, in the caller's thread.
        """
        self._read = read
        self._last = last
        self._next = first
        self._unread = first
        self._depth = depth
        self._pending: deque[Future[Read]] = deque()
        self._thread = ThreadPoolExecutor(1, "prefetch") if depth else None
        self._read_ahead()

    def take(self, update: int) -> Read:
        """What `read(update)` returns; what it raises is raised here, with its own traceback.

        Raises:
            TrainingError: If it is not the update that follows the one before.
        """
        if not self._next == update <= self._last:
            raise TrainingError(
                f"update {update} was asked for where {self._next} of {self._last} follows: begin "
                "a new Prefetcher to go elsewhere"
            )
        self._next += 1
        if self._thread is None:
            return self._read(update)
        found = self._pending.popleft().result()
        self._read_ahead()
        return found

    def close(self) -> None:
        """Let what is being read come to its end and stop the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetcher[Read]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read_ahead(self) -> None:
        while (
            self._thread is not None
            and len(self._pending) < self._depth
            and self._unread <= self._last
        ):
            self._pending.append(self._thread.submit(self._read, self._unread))
            self._unread += 1
