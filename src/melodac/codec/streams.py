"""`StreamingCodec`: base of codecs that code one chunk after another.

A whole recording is a stream of one block, so there is only one way to code. The stream is cut into
chunks of frames: a chunk reads `halo` frames beyond each end, so that what it keeps equals the same
stretch of the whole recording. Windows never reach past the ends of the recording: there a network
pads every layer, and zeros in front of its input would not give the same. At most two windows and a
block are held in memory.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor
from torch.nn import functional

from melodac.codec.interface import Codec
from melodac.errors import CodecError


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
    """Sizes of the chunks that a recording is cut into."""

    frames: int
    """Frames kept by a chunk that has neighbours on both sides."""
    halo: int
    """Frames read beyond each end, which cover the receptive field."""
    frame_length: int
    """Positions per frame along the last axis of a block: the hop for audio, 1 for codes."""
    is_fixed: bool = False
    """True to move the last window back to full length, so that all have one shape."""

    @property
    def window(self) -> int:
        """Frames read at once; the last or only window may be shorter."""
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
        # one position more, so that the chunk that ends the recording is known to be the last
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
    """Part of a stream that was read and not yet forgotten."""

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._pieces: list[Tensor] = []
        self._start = 0
        self.stop = 0
        """Position after the last one read."""

    def reaches(self, position: int) -> bool:
        """Read on to `position`; return False if the stream ends before."""
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
        if len(self._pieces) > 1:  # a single piece, such as a whole recording, is never copied
            self._pieces = [torch.cat(self._pieces, dim=-1)]
        return self._pieces[0]


class StreamingCodec(Codec):
    """Codec of which only the two streams are left to implement."""

    @abstractmethod
    def _encode(self, blocks: Iterator[Tensor]) -> Iterator[Int64[Tensor, "C K _"]]:
        """Encode checked blocks of audio, piece by piece."""

    @abstractmethod
    def _decode(self, blocks: Iterator[Tensor]) -> Iterator[Float[Tensor, "C _"]]:
        """Decode checked blocks of codes, piece by piece."""

    def encode(self, audio: Float[Tensor, "C N"]) -> Int64[Tensor, "C K T"]:
        """Encode each channel; see `Codec.encode`."""
        _check_audio(audio)
        shape = (audio.shape[0], self.num_codebooks, -(-audio.shape[-1] // self.hop))
        codes = torch.empty(shape, dtype=torch.int64, device=audio.device)
        return _fill(codes, self._encode_checked(iter([audio])))

    def decode(self, codes: Int[Tensor, "C K T"]) -> Float[Tensor, "C N"]:
        """Decode each channel; see `Codec.decode`."""
        audio = torch.empty(codes.shape[0], codes.shape[-1] * self.hop, device=codes.device)
        return _fill(audio, self._decode_checked(iter([codes])))

    def encode_blocks(
        self, blocks: Iterable[Float32[np.ndarray, "C _"]]
    ) -> Iterator[Int64[Tensor, "C K _"]]:
        """Encode a stream; see `Codec.encode_blocks`."""
        # copied, since torch warns about an array that is not writable
        tensors = (torch.tensor(block) for block in blocks)
        return (codes.cpu() for codes in self._encode_checked(tensors))

    def decode_blocks(
        self, blocks: Iterable[Int[Tensor, "C K _"]]
    ) -> Iterator[Float32[np.ndarray, "C _"]]:
        """Decode a stream; see `Codec.decode_blocks`."""
        return (audio.cpu().numpy() for audio in self._decode_checked(iter(blocks)))

    def _encode_checked(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        is_empty = True
        for codes in self._encode(_alike(blocks, _check_audio)):
            is_empty = False
            yield codes
        if is_empty:
            raise CodecError("audio without a sample; at least one is needed")

    def _decode_checked(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        return self._decode(_alike(blocks, self._check_codes))

    def _check_codes(self, codes: Tensor) -> None:
        if not 1 <= codes.shape[1] <= self.num_codebooks or codes.shape[0] < 1:
            raise CodecError(
                f"codes of shape {tuple(codes.shape)}, codec {self.name} needs at least one "
                f"channel of 1 to {self.num_codebooks} codebooks"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise CodecError(
                f"codes from {int(codes.min())} to {int(codes.max())}, only 0 to "
                f"{self.codebook_size - 1} can be decoded: remove special tokens first"
            )


def _check_audio(audio: Tensor) -> None:
    if not audio.is_floating_point():
        raise CodecError(f"audio of type {audio.dtype}, floating point in [-1, 1] is needed")
    if audio.ndim != 2 or audio.shape[0] < 1:
        raise CodecError(
            f"audio of shape {tuple(audio.shape)}, channels x samples are needed, at least one each"
        )
    if not bool(torch.isfinite(audio).all()):
        raise CodecError("audio holds samples that are not finite numbers; normalise it first")


def _alike(blocks: Iterator[Tensor], check: Callable[[Tensor], None]) -> Iterator[Tensor]:
    """Yield blocks, checking each one and that all agree in all axes but the last."""
    shape: torch.Size | None = None
    for block in blocks:
        check(block)
        if shape not in {None, block.shape[:-1]}:
            raise CodecError(
                f"a block of shape {tuple(block.shape)} follows one of {shape}; "
                "channels cannot change within a stream"
            )
        shape = block.shape[:-1]
        yield block


def _fill(whole: Tensor, pieces: Iterator[Tensor]) -> Tensor:
    """Write pieces into `whole`, one after another along its last axis."""
    start = 0
    for piece in pieces:
        whole[..., start : start + piece.shape[-1]] = piece
        start += piece.shape[-1]
    return whole
