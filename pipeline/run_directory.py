"""Where a training run keeps what it needs to resume: `.scratch/<purpose>/<fingerprint>`.

DVC deletes a stage's outputs before it runs, and a persisted output would mix old weights with new
params. So resumable state lives outside the outputs, under a name made of everything that changes
the run: another value, another directory. One process at a time may hold it.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from melodac.errors import OutputError
from pipeline.paths import scratch


def name_run_directory(purpose: str, identity: Mapping[str, Any]) -> Path:
    """The directory of the run that `identity` describes; it need not be there yet."""
    text = json.dumps(identity, sort_keys=True)
    return scratch(purpose) / hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def hold_run_directory(directory: Path) -> Iterator[None]:
    """Make the directory of a run and lock it while the block runs.

    The lock belongs to the process and ends with it, so a killed run leaves nothing to clean up.

    Raises:
        OutputError: If it cannot be made, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        _lock(lock, directory)
        yield
    finally:
        os.close(lock)


def remove_run_directory(directory: Path) -> None:
    """Drop the state of a run that is finished and whose results are in place."""
    shutil.rmtree(directory)


def _lock(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode().strip()
        raise OutputError(
            f"{directory} is in use by process {holder}: the same run is already going on, "
            "wait for it or stop it"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
