"""A file that can be read only so often and so much, for parsers that believe what files say.

mutagen walks every chunk a file claims to have and keeps them all: 4 million empty chunks, 32 MB,
cost minutes and gigabytes. Internal to `embedded`.
"""

import io
from pathlib import Path

from melodac.errors import AudioError

MAX_READS = 200_000
MAX_BYTES = 32 << 20


class BoundedFile(io.BufferedReader):
    """A file opened for reading, ended by an error when its reader asks for too much."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._reads_left = MAX_READS
        self._bytes_left = MAX_BYTES

    @property
    def name(self) -> str:
        """Nothing, so that no parser is chosen by the extension: the same bytes say the same."""
        return ""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes.

        Raises:
            AudioError: If it was one read or one byte too many.
        """
        # one more than is left, so that a header which lies about a length reserves no memory
        allowed = self._bytes_left + 1
        data = super().read(allowed if size is None or not 0 <= size < allowed else size)
        self._reads_left -= 1
        self._bytes_left -= len(data)
        if self._reads_left < 0:
            raise AudioError(f"more than {MAX_READS} parts, not used")
        if self._bytes_left < 0:
            raise AudioError(f"more than {MAX_BYTES >> 20} MB of tags, not used")
        return data
