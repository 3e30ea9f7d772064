"""`StreamingCodec`: what codecs share that code one chunk after another.

A whole recording is a stream of one block, so that there is one way to code and not two.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from melodac.codec.interface import Codec
from melodac.errors import CodecError


class StreamingCodec(Codec):
    """A codec of which only the two streams are left to write."""

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
        # copied, as a block that cannot be written to makes torch warn
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
    """Check blocks as they pass, and that all agree but for their length."""
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
