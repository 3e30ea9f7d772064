"""Bytes that stay: forced to disk, named by their hash, and under their name only when whole.

A file is durable once its bytes and then the folder that names it are synced; until then a power
cut may leave an empty file under a final name. What a kill leaves is called `.<name>.partial`.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from melodac.errors import MelodacError, OutputError


def sync(path: Path) -> None:
    """Force a file's bytes, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def plain_errors(path: Path) -> Generator[None]:
    """Turn what the system says of a place that cannot be written into one line.

    Raises:
        OutputError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, MelodacError):
            raise
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def whole_file(
    path: Path, *, is_shared: bool = False, is_synced: bool = True
) -> Generator[Path, None, None]:
    """Yield a temporary name that becomes `path` when the block ends without an error.

    Args:
        path: Final name; an older file there is replaced, its folder is made.
        is_shared: Whether other processes may write the same file at the same time; the temporary
            name then holds the process id.
        is_synced: Whether the bytes are forced to disk before they get the final name.
    """
    middle = f".{os.getpid()}" if is_shared else ""
    partial = path.with_name(f".{path.name}{middle}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if is_synced:
            sync(partial)
        partial.replace(path)
    finally:
        with suppress(OSError):  # the error that brought us here says more
            partial.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that it holds, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)


def publish_folder(partial: Path, folder: Path) -> None:
    """Give a finished folder its final name, in place of an older one."""
    sync(partial)
    remove_folder(folder)
    partial.rename(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no second names."""
    try:
        target.hardlink_to(source)
    except FileExistsError:  # another process was first, with the same bytes
        return
    except OSError:
        with whole_file(target, is_shared=True) as partial:
            shutil.copyfile(source, partial)


def lock_alone(lock: int, note: str, *, waits: bool = False) -> str | None:
    """Lock an open file for this process alone and leave a note in it.

    The lock ends with the process, so that a kill leaves nothing to clean up.

    Args:
        lock: Descriptor, open for reading and writing.
        note: Whom or what to name to others that want the lock.
        waits: Whether to wait until another process has let it go.

    Returns:
        The note of whoever holds the lock; None once it is ours.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return os.pread(lock, 100, 0).decode().strip()
    os.ftruncate(lock, 0)
    os.pwrite(lock, note.encode(), 0)
    return None
