"""What runs inside a worker process; `workers.py` starts it and talks to it through a pipe.

The memory limit is RLIMIT_DATA above what the worker has loaded: it counts memory that is written
to. RLIMIT_AS would also count address space that libraries reserve and never touch.
"""

import multiprocessing
import os
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

READY = "ready"
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Raised:
    """Carries an error to the parent."""

    error: Exception


@dataclass(frozen=True)
class OutOfMemory:
    """Says that the limit was reached."""


def work(function: Callable[[Any], Any], pipe: Connection, memory_mb: int | None) -> None:
    """Answer each item that comes through the pipe, until it is closed."""
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
        return (function(item),)
    except MemoryError:
        _limit_memory(None)  # the answer itself needs some
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
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard if limit_bytes is None else limit_bytes
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _written_bytes() -> int:
    """What RLIMIT_DATA counts of this process now."""
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmData:"))
    return int(kibibytes) << 10


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
