"""Samples that wait on disk, so that a track is gone through several times and never held.

The file has no name: it is gone when it is closed, and when the process is killed. Reading it back
costs a twentieth of decoding again. Any module above may import it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from melodac.errors import OutputError

BLOCK_SAMPLES = 1 << 16
"""Per channel; what a pass holds at once."""


class Spool:
    """Samples of one track, written once and read back as often as needed."""

    def __init__(self, folder: Path, num_channels: int) -> None:
        """Open a nameless file.

        Args:
            folder: A folder on the disk to use.
            num_channels: Of every block.

        Raises:
            OutputError: If the folder cannot be written.
        """
        self._folder = folder
        self.num_channels = num_channels
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  `__exit__` closes it
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Write the next samples.

        Raises:
            OutputError: If the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(audio.T).data)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror}") from error

    def blocks(self, start: int, stop: int) -> Iterator[Float32[np.ndarray, "C N"]]:
        """The samples from `start` until before `stop`, in blocks of bounded size."""
        sample_bytes = self.num_channels * np.dtype(np.float32).itemsize
        self._file.seek(start * sample_bytes)
        for first in range(start, stop, BLOCK_SAMPLES):
            samples = min(BLOCK_SAMPLES, stop - first)
            block: np.ndarray[Any, np.dtype[np.float32]] = np.empty(
                (samples, self.num_channels), np.float32
            )
            self._file.readinto(block.data)
            yield block.T
