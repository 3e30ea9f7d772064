"""Running one function over many items in worker processes.

Results come in the order of the items, so nothing depends on how many workers there are. A worker
that dies (a decoder crash, the kernel's memory killer) costs the item it held and no other. Workers
start from a fork server that has made the slow imports, and end when their parent does.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_PER_WORKER = 4
"""Items handed out ahead, so that no worker waits and memory stays bounded."""

SLOW_IMPORTS = ("soundfile", "pyloudnorm")
"""What costs a worker a second to import, once in the fork server instead; nothing of ours, which
the server would look for on its own path and not on that of this checkout."""


@dataclass(frozen=True)
class WorkerCrash:
    """Stands for the result of an item that killed its worker."""


def count_workers(asked: int) -> int:
    """`runtime.workers` as a number: 0 is one for each core this process may use."""
    return asked or len(os.sched_getaffinity(0))


def map_in_workers(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result | WorkerCrash]:
    """`function(item)` for every item, in their order.

    What `function` raises is raised here.

    Args:
        function: A function of a module, or a `functools.partial` of one.
        items: Plain data.
        workers: Processes, at least 1.
    """
    waiting = deque[_Task[Item, Result]]()
    remaining = iter(items)
    pool = _Pool(function, workers)
    try:
        for item in itertools.islice(remaining, workers * WAITING_PER_WORKER):
            waiting.append(pool.submit(item))
        while waiting:
            try:
                result = waiting[0].future.result()
            except BrokenProcessPool:
                # no word on who was the culprit: try those in flight one by one
                result = _run_alone(function, waiting[0].item)
                pool.close()
                pool = _Pool(function, workers)
                waiting = deque(
                    task if _is_done(task) else pool.submit(task.item) for task in waiting
                )
            waiting.popleft()
            for item in itertools.islice(remaining, 1):
                waiting.append(pool.submit(item))
            yield result
    finally:
        pool.close()


@dataclass(frozen=True)
class _Task(Generic[Item, Result]):
    item: Item
    future: Future[Result]


class _Pool(Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        self._function = function
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *SLOW_IMPORTS])
        self._executor = ProcessPoolExecutor(
            max_workers=workers, mp_context=context, initializer=_start_worker
        )

    def submit(self, item: Item) -> _Task[Item, Result]:
        try:
            return _Task(item, self._executor.submit(self._function, item))
        except BrokenProcessPool as error:
            failed = Future[Result]()
            failed.set_exception(error)
            return _Task(item, failed)

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _run_alone(function: Callable[[Item], Result], item: Item) -> Result | WorkerCrash:
    pool = _Pool(function, 1)
    try:
        return pool.submit(item).future.result()
    except BrokenProcessPool:
        return WorkerCrash()
    finally:
        pool.close()


def _is_done(task: _Task[Item, Result]) -> bool:
    future = task.future
    return future.done() and not isinstance(future.exception(), BrokenProcessPool)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
