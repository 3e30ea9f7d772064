"""A pool of worker processes that applies one function to many items and survives their crashes.

Results come in the order of the items, so nothing depends on how many workers there are. A worker
that dies (a decoder crash, the kernel's OOM killer), takes too long or needs too much memory
costs the item it held and no other. Every worker has its own pipe and can be killed alone, which
neither `concurrent.futures` nor a pool with shared queues allows. `work` runs inside each worker,
whose process imports this module: imports here stay light.
"""

import itertools
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from melodac.errors import MelodacError

READY = "ready"
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Raised:
    """Message to the parent: the function raised this error."""

    error: Exception


@dataclass(frozen=True)
class OutOfMemory:
    """Message to the parent: the item reached the memory limit."""


def work(function: Callable[[Any], Any], pipe: Connection, memory_mb: int | None) -> None:
    """Apply `function` to each item that arrives through the pipe, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if memory_mb is not None:
        _limit_memory(_written_bytes() + (memory_mb << 20))
    try:
        pipe.send(READY)
        while True:
            _send(pipe, _answer(function, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _answer(function: Callable[[Any], Any], item: object) -> object:
    try:
        return (function(item),)  # in a tuple, so that no result can pass for a message
    except MemoryError:
        _limit_memory(None)  # sending the answer needs memory too
        return OutOfMemory()
    except Exception as error:  # noqa: BLE001  raised again where the results are read
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return Raised(error)


def _send(pipe: Connection, answer: object) -> None:
    try:
        pipe.send(answer)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        pipe.send(Raised(TypeError(f"a result cannot be sent from a worker: {error}")))


def _limit_memory(limit_bytes: int | None) -> None:
    # RLIMIT_DATA and not RLIMIT_AS, which would count the address space of mapped libraries; it
    # covers what malloc gets from mmap since Linux 4.7 (setrlimit(2))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if limit_bytes is None else limit_bytes
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _written_bytes() -> int:
    """Return the bytes of this process that count towards RLIMIT_DATA now."""
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmData:"))
    return int(kibibytes) << 10


def _end_with_parent() -> None:
    # a killed parent cannot close its workers; the sentinel becomes readable when it is gone
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # sys.exit would end this thread only, not a decoder in the main thread


Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD_PER_WORKER = 16
"""Results buffered per worker while an earlier item is still running, so that memory is bounded."""

SLOW_IMPORTS = ("av", "soundfile", "pyloudnorm")
"""Packages that take a worker a second to import, preloaded once in the fork server. No module of
ours: the server would look for it on its own path and not on that of this checkout."""


@dataclass(frozen=True)
class WorkerCrash:
    """Placeholder for the result of an item that killed its worker."""


@dataclass(frozen=True)
class WorkerTimeout:
    """Placeholder for the result of an item whose worker was killed for taking too long."""


@dataclass(frozen=True)
class WorkerOutOfMemory:
    """Placeholder for the result of an item that needed more memory than allowed."""


WorkerFailure = WorkerCrash | WorkerTimeout | WorkerOutOfMemory


def count_workers(asked: int) -> int:
    """Return the number of workers for `runtime.workers`; 0 means one per core we may use."""
    return asked or len(os.sched_getaffinity(0))


@overload
def map_in_workers(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result | WorkerCrash]: ...
@overload
def map_in_workers(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout_s: float | None = None,
    memory_mb: int | None = None,
) -> Iterator[Result | WorkerFailure]: ...
def map_in_workers(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout_s: float | None = None,
    memory_mb: int | None = None,
) -> Iterator[Result | WorkerFailure]:
    """Yield `function(item)` for every item, in the order of the items.

    Errors of `function` are raised here.

    Args:
        function: A function of a module, or a `functools.partial` of one, as it is pickled.
        items: Picklable values.
        workers: Processes, at least 1.
        timeout_s: Seconds an item may take, counted from when its worker receives it.
        memory_mb: Mebibytes an item may need on top of what its worker has loaded.
    """
    pool = _Pool(function, items, timeout_s=timeout_s, memory_mb=memory_mb)
    try:
        yield from pool.run(workers)
    finally:
        pool.close()


@dataclass(frozen=True)
class _Task(Generic[Item]):
    number: int
    item: Item


@dataclass
class _Worker(Generic[Item]):
    process: ForkServerProcess
    pipe: Connection
    task: _Task[Item] | None = None
    """The item it works on, or will as soon as it has started."""
    is_ready: bool = False
    is_used: bool = False
    """True once it has finished an item, whose memory it may still hold."""
    deadline_s: float = float("inf")


@dataclass
class _Pool(Generic[Item, Result]):
    function: Callable[[Item], Result]
    items: Iterable[Item]
    timeout_s: float | None
    memory_mb: int | None
    workers: list[_Worker[Item]] = field(default_factory=list[_Worker[Item]])
    results: dict[int, Any] = field(default_factory=dict[int, Any])

    def run(self, workers: int) -> Iterator[Result | WorkerFailure]:
        waiting = (_Task(number, item) for number, item in enumerate(self.items))
        for wanted in itertools.count():
            while wanted not in self.results:
                self._hand_out(waiting, workers, before=wanted + workers * AHEAD_PER_WORKER)
                if not any(worker.task for worker in self.workers):
                    return
                self._listen()
            yield self.results.pop(wanted)

    def close(self) -> None:
        """Stop every worker: idle ones by closing their pipe, busy ones by SIGKILL."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.task is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()
        self.workers.clear()

    def _hand_out(self, waiting: Iterator[_Task[Item]], workers: int, *, before: int) -> None:
        idle = [worker for worker in self.workers if worker.task is None]
        for _ in range(len(idle) + workers - len(self.workers)):
            # nothing is started too far ahead of the result that is waited for: finished results
            # would pile up in memory
            in_work = [worker.task.number for worker in self.workers if worker.task]
            if max([*in_work, *self.results, -1]) + 1 >= before:
                return
            task = next(waiting, None)
            if task is None:
                return
            if idle:
                self._give(idle.pop(), task)
            else:
                self._start(task)

    def _start(self, task: _Task[Item]) -> None:
        context = multiprocessing.get_context("forkserver")
        # `__main__` is the default, which this call replaces
        context.set_forkserver_preload(["__main__", *SLOW_IMPORTS])
        ours, theirs = Pipe()
        process = context.Process(
            target=work, args=(self.function, theirs, self.memory_mb), daemon=True
        )
        process.start()
        theirs.close()  # else the pipe would not end with the worker
        # the stubs also allow for Windows' pipe class
        self.workers.append(_Worker(process, ours, task))  # pyright: ignore[reportArgumentType]

    def _give(self, worker: _Worker[Item], task: _Task[Item]) -> None:
        worker.task = task
        if not worker.is_ready:
            return
        if self.timeout_s is not None:
            worker.deadline_s = time.monotonic() + self.timeout_s
        try:
            worker.pipe.send(task.item)
        except (
            BrokenPipeError,
            ConnectionResetError,
        ):  # died while idle, which is not the task's fault
            self._discard(worker)
            self._start(task)

    def _listen(self) -> None:
        """Wait until a worker sends a message, ends or passes its deadline."""
        left_s = min(worker.deadline_s for worker in self.workers) - time.monotonic()
        pipes = {worker.pipe: worker for worker in self.workers}
        heard = wait(list(pipes), None if left_s == float("inf") else max(left_s, 0.0))
        for pipe in heard:
            self._hear(pipes[pipe])  # pyright: ignore[reportArgumentType]  only pipes were given
        now_s = time.monotonic()
        for worker in [worker for worker in self.workers if worker.deadline_s <= now_s]:
            if not worker.pipe.poll():
                self._lose(worker, WorkerTimeout())

    def _hear(self, worker: _Worker[Item]) -> None:
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            if not worker.is_ready:
                raise MelodacError("worker processes cannot start, see the error above") from None
            self._lose(worker, WorkerCrash())
            return
        if worker.task is None:
            return
        if message == READY:
            worker.is_ready = True
            self._give(worker, worker.task)
        elif isinstance(message, OutOfMemory):
            self._lose(worker, WorkerOutOfMemory())
        elif isinstance(message, Raised):
            raise message.error
        else:
            self.results[worker.task.number] = message[0]
            worker.task, worker.deadline_s, worker.is_used = None, float("inf"), True

    def _lose(self, worker: _Worker[Item], failure: WorkerFailure) -> None:
        self._discard(worker)
        if worker.task is None:
            return
        if isinstance(failure, WorkerOutOfMemory) and worker.is_used:
            self._start(worker.task)  # a fresh worker: leftovers of earlier items must not decide
        else:
            self.results[worker.task.number] = failure

    def _discard(self, worker: _Worker[Item]) -> None:
        self.workers.remove(worker)
        worker.process.kill()  # a decoder in an endless loop may ignore any other signal
        worker.process.join()
        worker.pipe.close()
