"""`read_chunks`: a stream of blocks of any sizes, re-cut into chunks of frames with their halo.

A chunk reads `halo` frames beyond each end, so that what it keeps equals the same stretch of the
whole recording. Windows never reach past the ends of the recording: a network pads every layer
there, which zeros in front of its input would not give. At most two windows and a block are held.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Chunk:
    """Frames kept, from `start` to `stop`, and the window of frames read for them."""

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def kept(self) -> slice:
        """Frames of the window that are kept."""
        return slice(self.start - self.read_start, self.stop - self.read_start)


@dataclass(frozen=True)
class ChunkShape:
    """How a recording is cut."""

    frames: int
    """Frames kept by a chunk that has neighbours on both sides."""
    halo: int
    """Frames read beyond each end."""
    frame_length: int
    """Positions a frame along the last axis of a block: the hop for audio, 1 for codes."""
    is_fixed: bool = False
    """Whether the last window is moved back to full length, so that all have one shape."""

    @property
    def window(self) -> int:
        """Frames read at once: every window's length, but that of the last or only one."""
        return self.frames + 2 * self.halo


def read_chunks(blocks: Iterable[Tensor], shape: ChunkShape) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield chunks in order, each with the window it reads along the last axis of the blocks.

    Chunks tile the recording; past its end, and only there, the last frame is filled with zeros.
    """
    buffer = _Buffer(blocks)
    start = 0
    while True:
        read_start = max(0, start - shape.halo)
        read_stop = read_start + shape.window
        if not buffer.reaches(read_stop * shape.frame_length + 1):
            break
        chunk = Chunk(start, read_stop - shape.halo, read_start, read_stop)
        yield chunk, buffer.cut(chunk, shape.frame_length)
        buffer.forget(read_start * shape.frame_length)  # a last window may move back to here
        start = chunk.stop
    num_frames = -(-buffer.stop // shape.frame_length)
    if num_frames:
        if shape.is_fixed:
            read_start = max(0, num_frames - shape.window)
        chunk = Chunk(start, num_frames, read_start, num_frames)
        yield chunk, buffer.cut(chunk, shape.frame_length)


class _Buffer:
    """What was read of a stream and not yet forgotten."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._pieces: list[Tensor] = []
        self._start = 0
        self.stop = 0
        """Position after the last one read."""

    def reaches(self, position: int) -> bool:
        """Read on to `position`; say whether the stream is that long."""
        while self.stop < position:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._pieces.append(block)
            self.stop += block.shape[-1]
        return True

    def cut(self, chunk: Chunk, frame_length: int) -> Tensor:
        held = self._joined()
        first = chunk.read_start * frame_length - self._start
        length = (chunk.read_stop - chunk.read_start) * frame_length
        window = held[..., first : first + length]
        return functional.pad(window, (0, length - window.shape[-1]))

    def forget(self, position: int) -> None:
        self._pieces = [self._joined()[..., position - self._start :]]
        self._start = position

    def _joined(self) -> Tensor:
        if len(self._pieces) > 1:  # one piece, as when all is in memory already, is never copied
            self._pieces = [torch.cat(self._pieces, dim=-1)]
        return self._pieces[0]
