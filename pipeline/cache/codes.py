"""Codes that were encoded before, found by what they were made from and proven by their bytes.

`.scratch/encode` outlives every run and may be deleted at any time; then all is encoded again.

    codes/<aa>/<key>          codes of one signal of one track; key = hash of all that decides them
    shards/<recipe>.<sha256>  shards of the last store (`melodac.store_writer`)
    partial/                  files being written
    lock                      held by the one process that uses the folder

An entry is one line, the sha256 of a JSON header and that header, and then the codes.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from pydantic import PositiveInt, ValidationError

from melodac.config import Section
from melodac.errors import OutputError
from melodac.files import sync
from pipeline.paths import scratch

log = logging.getLogger(__name__)

ENTRY_VERSION = 1
"""Raise it when the entries' format or the arithmetic of encoding changes: none is then found."""

_MAX_HEADER_BYTES = 1024


class CachedCodes(Section):
    """The header of an entry."""

    key: str
    num_codebooks: PositiveInt
    num_frames: PositiveInt
    sha256: str
    """Of the codes."""

    @property
    def size_bytes(self) -> int:
        """Of the codes, 2 bytes each."""
        return 2 * self.num_codebooks * self.num_frames


@dataclass(frozen=True)
class EncodeScratch:
    """The scratch folder of the encode stage, while this process holds it."""

    codes: "CodeCache"
    shards: Path
    """Folder of a `ShardCache`."""


@contextmanager
def hold_encode_scratch() -> Iterator[EncodeScratch]:
    """Use the scratch folder; waits while another process does, whose codes are then found.

    The lock ends with its process, so a killed run leaves nothing to clean up.

    Raises:
        OutputError: If the folder cannot be written.
    """
    folder = scratch("encode")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        _wait_for(lock, folder)
        partial = folder / "partial"
        if partial.exists():
            shutil.rmtree(partial)  # of a run that was killed: only the holder of the lock writes
        partial.mkdir()
        yield EncodeScratch(CodeCache(folder / "codes", partial), folder / "shards")
    finally:
        os.close(lock)


class CodeCache:
    """Codes by key. Threads may use it at once, as long as no two write the same key."""

    def __init__(self, folder: Path, partial: Path) -> None:
        """Use a folder.

        Args:
            folder: Where entries lie.
            partial: Where they are written before they get their names; the same file system.
        """
        self._folder = folder
        self._partial = partial

    def find(self, key: str) -> CachedCodes | None:
        """What is known of an entry without reading its codes; None if there is none."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                line = file.readline(_MAX_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size - len(line)
        except FileNotFoundError:
            return None
        found = _parse(line)
        if found is None or found.key != key or found.size_bytes != size:
            return self._drop(path)
        return found

    def read(self, key: str) -> UInt16[np.ndarray, "K T"] | None:
        """The codes of an entry, every byte checked; None if there is none or it is damaged."""
        found = self.find(key)
        if found is None:
            return None
        content = self._path(key).read_bytes()[-found.size_bytes :]
        if hashlib.sha256(content).hexdigest() != found.sha256:
            return self._drop(self._path(key))
        codes = np.frombuffer(content, dtype="<u2").astype(np.uint16)
        return codes.reshape(found.num_codebooks, found.num_frames)

    def write(self, key: str, codes: UInt16[np.ndarray, "K T"]) -> None:
        """Keep codes, whole or not at all, and for good once this returns.

        Raises:
            OutputError: If the place cannot be written.
        """
        content = np.ascontiguousarray(codes, dtype="<u2").tobytes()
        entry = CachedCodes(
            key=key,
            num_codebooks=codes.shape[0],
            num_frames=codes.shape[1],
            sha256=hashlib.sha256(content).hexdigest(),
        )
        header = json.dumps(entry.model_dump(), sort_keys=True).encode()
        line = hashlib.sha256(header).hexdigest().encode() + b" " + header + b"\n"
        path, partial = self._path(key), self._partial / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(line + content)
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _drop(self, path: Path) -> None:
        log.warning("%s is damaged: its track is encoded again", path)
        path.unlink()


def make_key(**parts: str | int) -> str:
    """Name of codes, from everything that decides them."""
    text = json.dumps({"entry_version": ENTRY_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: bytes) -> CachedCodes | None:
    checksum, _, header = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or hashlib.sha256(header).hexdigest().encode() != checksum:
        return None
    try:
        return CachedCodes.model_validate_json(header)
    except ValidationError:
        return None


def _wait_for(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode().strip()
        log.info("%s is in use by process %s: waiting until it is done", folder, holder)
        fcntl.flock(lock, fcntl.LOCK_EX)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
