"""A part of an open file that reads like a file of its own; any module above may import it."""

import io
import os
from typing import BinaryIO


def open_section(file: BinaryIO, start: int, end: int) -> BinaryIO:
    """The bytes from one offset to another, with a position of its own."""
    return io.BufferedReader(_Section(file, start, end), buffer_size=1 << 16)


class _Section(io.RawIOBase):
    mode = "rb"

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._file, self._start, self._end = file, start, end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  Buffer is of 3.12
        offset = self._start + self._position
        count = max(min(len(buffer), self._end - offset), 0)
        self._file.seek(offset)
        piece = self._file.read(count)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._end - self._start,
        }[whence]
        if base + offset < 0:
            raise OSError("cannot seek before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position
