"""Writing of FLAC and WAV, whole or not at all, and a spool of samples between two passes.

A file gets its name when it is complete: temporary name, fsync, rename. A spool has no name: it
disappears when it is closed or the process is killed. Reading it back costs a twentieth of decoding
again.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.errors import AudioError, OutputError
from melodac.files import plain_errors, sync

BLOCK_SAMPLES = 1 << 16
"""Samples per channel that are held at once; also the most in one write, since a single large write
has crashed libsndfile for some formats."""


class Spool:
    """Samples of one track on disk, written once and read back as often as needed."""

    def __init__(self, folder: Path, num_channels: int) -> None:
        """Open a nameless file; `OutputError` if the folder cannot be written.

        Args:
            folder: A folder on the disk to use.
            num_channels: Of every block.
        """
        self._folder = folder
        self.num_channels = num_channels
        with plain_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  `__exit__` closes it

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Write the next samples; `OutputError` if the disk is full."""
        with plain_errors(self._folder):
            self._file.write(np.ascontiguousarray(audio.T).data)
            self._file.flush()

    def blocks(self, start: int, stop: int) -> Iterator[Float32[np.ndarray, "C N"]]:
        """Yield the samples from `start` until before `stop`, in blocks of bounded size."""
        sample_bytes = self.num_channels * np.dtype(np.float32).itemsize
        self._file.seek(start * sample_bytes)
        for first in range(start, stop, BLOCK_SAMPLES):
            samples = min(BLOCK_SAMPLES, stop - first)
            block: np.ndarray[Any, np.dtype[np.float32]] = np.empty(
                (samples, self.num_channels), np.float32
            )
            self._file.readinto(block.data)
            yield block.T


Subtype = Literal["PCM_16", "PCM_24"]
LIBSNDFILE_SYSTEM_ERROR = 2
"""libsndfile's only error code for a failed write. Source: sndfile.h, SF_ERR_SYSTEM."""
DISK_FULL = "the disk is full, or the file larger than allowed there"


class AudioWriter:
    """Audio file being written block by block. Made by `open_flac`."""

    def __init__(self, path: Path, file: soundfile.SoundFile) -> None:
        self._path = path
        self._file = file

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Write the next samples; those past full scale are clipped, as a sound card would.

        A full disk raises `OutputError`.

        Raises:
            AudioError: If a sample is not finite.
        """
        if not np.isfinite(audio).all():
            raise AudioError(f"{self._path}: not written: the audio holds NaN or infinity")
        with _plain_errors(self._path):
            for start in range(0, audio.shape[1], BLOCK_SAMPLES):
                self._file.write(audio[:, start : start + BLOCK_SAMPLES].T)


@contextmanager
def open_flac(
    path: Path, rate_hz: int, num_channels: int, subtype: Subtype = "PCM_24"
) -> Generator[AudioWriter]:
    """Open a FLAC file for writing; it appears when the with-block ends without an error.

    A place that cannot be written raises `OutputError`.
    """
    # the process id: two writers of one file must not share a temporary one
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, partial)
        with _plain_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # opened here, since libsndfile's own message would only be "System error"
            raw = stack.enter_context(partial.open("wb+"))
            file = stack.enter_context(
                soundfile.SoundFile(
                    raw.fileno(),
                    mode="w",
                    samplerate=rate_hz,
                    channels=num_channels,
                    format="FLAC",
                    subtype=subtype,
                    closefd=False,
                )
            )
        yield AudioWriter(path, file)
        with _plain_errors(path):
            num_samples = file.frames
            file.close()
            _check_end(partial, num_samples)
            sync(partial)
            partial.replace(path)
            sync(path.parent)


def write_flac(
    path: Path, audio: Float32[np.ndarray, "C N"], rate_hz: int, subtype: Subtype = "PCM_24"
) -> None:
    """Write a FLAC file; errors as in `AudioWriter.add`."""
    with open_flac(path, rate_hz, audio.shape[0], subtype) as writer:
        writer.add(audio)


def _check_end(path: Path, num_samples: int) -> None:
    """Read the last sample back: on a full disk libsndfile silently truncates a FLAC file.

    Raises:
        OSError: If the last sample is not there.
    """
    if num_samples == 0:
        return
    with path.open("rb") as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as file:
        try:
            file.seek(num_samples - 1)
            is_there = file.read(dtype="float32").shape[0] == 1
        except soundfile.LibsndfileError:
            is_there = False
        if not is_there:
            raise OSError(errno.ENOSPC, DISK_FULL)


@contextmanager
def _plain_errors(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        raise OutputError(f"{path}: cannot be written: {_explain(error)}") from error


def _explain(error: OSError | soundfile.LibsndfileError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if error.code == LIBSNDFILE_SYSTEM_ERROR:
        return DISK_FULL
    return str(error.error_string)


def _remove(partial: Path) -> None:
    with contextlib.suppress(OSError):  # the error that led here says more
        partial.unlink(missing_ok=True)
