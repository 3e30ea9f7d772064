"""`DacCodec`: a DAC behind the `Codec` interface, frozen, coding in exact overlapping chunks.

A chunk reads as many frames beyond its ends as the network sees, so its codes equal those of the
whole recording, whatever the chunk length, and memory stays bounded. Weight norm is folded into the
weights once. `melodac.codec.load` builds it.
"""

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from typing import cast

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import remove_weight_norm

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac_import import DacModel
from melodac.codec.halo import Chunk, decoder_halo, encoder_halo, plan_chunks
from melodac.codec.interface import Codec
from melodac.errors import CodecError


class DacCodec(Codec):
    """A DAC with fixed weights."""

    def __init__(
        self,
        model: nn.Module,
        architecture: DacArchitecture,
        *,
        name: str,
        weights_sha256: str,
        chunk_frames: int = 512,
        batch_chunks: int = 1,
    ) -> None:
        """Freeze `model` for inference.

        Args:
            model: A DAC with its weights; changed in place.
            architecture: Its shape.
            name: Name of the weights.
            weights_sha256: Hash of the weights file.
            chunk_frames: Frames coded at once, without halo; never changes a result.
            batch_chunks: Chunks coded side by side; more than one pays on a GPU.

        Raises:
            CodecError: A chunk would be empty.
        """
        if chunk_frames < 1 or batch_chunks < 1:
            raise CodecError(
                f"chunk_frames {chunk_frames} and batch_chunks {batch_chunks} must be at least 1"
            )
        self.name, self.weights_sha256 = name, weights_sha256
        self.sample_rate_hz, self.hop = architecture.sample_rate, architecture.hop
        self.num_codebooks = architecture.n_codebooks
        self.codebook_size = architecture.codebook_size
        self.model = fold_weight_norm(model).eval().requires_grad_(False)
        parts = cast("DacModel", model)
        self._parts = parts
        self._encoder_halo = encoder_halo(parts.encoder)
        self._decoder_halo = decoder_halo(parts.decoder)
        self.chunk_frames, self.batch_chunks = chunk_frames, batch_chunks

    @torch.inference_mode()
    def encode(self, audio: Float[Tensor, "C N"]) -> Int64[Tensor, "C K T"]:
        """Encode each channel, chunk by chunk; see `Codec.encode`."""
        _check_audio(audio)
        num_frames = -(-audio.shape[1] // self.hop)
        codes = torch.empty(
            audio.shape[0], self.num_codebooks, num_frames, dtype=torch.int64, device=audio.device
        )

        def encode_chunks(chunks: list[Chunk]) -> None:
            pieces = [self._samples(audio, chunk) for chunk in chunks]
            stacked = self._to_model(torch.stack(pieces).flatten(0, 1)[:, None])
            latents = self._parts.encoder(stacked)
            result = _by_chunk(self._parts.quantizer(latents)[1], len(chunks))
            for chunk, piece in zip(chunks, result, strict=True):
                first = chunk.start - chunk.read_start
                codes[..., chunk.start : chunk.stop] = piece[
                    ..., first : first + chunk.stop - chunk.start
                ]

        self._each_batch(num_frames, self._encoder_halo, encode_chunks)
        return codes

    @torch.inference_mode()
    def decode(self, codes: Int[Tensor, "C K T"]) -> Float[Tensor, "C N"]:
        """Decode each channel, chunk by chunk; see `Codec.decode`."""
        self._check_codes(codes)
        audio = torch.empty(codes.shape[0], codes.shape[2] * self.hop, device=codes.device)

        def decode_chunks(chunks: list[Chunk]) -> None:
            pieces = [codes[..., chunk.read_start : chunk.read_stop] for chunk in chunks]
            stacked = torch.stack(pieces).flatten(0, 1).to(self._device(), torch.int64)
            latents = self._parts.quantizer.from_codes(stacked)[0]
            result = _by_chunk(self._parts.decoder(latents)[:, 0], len(chunks))
            for chunk, piece in zip(chunks, result, strict=True):
                first = (chunk.start - chunk.read_start) * self.hop
                length = (chunk.stop - chunk.start) * self.hop
                audio[:, chunk.start * self.hop :][:, :length] = piece[:, first : first + length]

        self._each_batch(codes.shape[2], self._decoder_halo, decode_chunks)
        return audio

    def _each_batch(self, num_frames: int, halo: int, code: Callable[[list[Chunk]], None]) -> None:
        """Hand chunks of equal shape to `code`, as many at once as a batch holds."""
        chunks = plan_chunks(num_frames, self.chunk_frames, halo)
        for batch in _batches(chunks, self.batch_chunks):
            code(batch)

    def _samples(self, audio: Float[Tensor, "C N"], chunk: Chunk) -> Float[Tensor, "C _"]:
        """Cut what a chunk reads; only past the end of the recording are there zeros."""
        piece = audio[:, chunk.read_start * self.hop : chunk.read_stop * self.hop]
        missing = (chunk.read_stop - chunk.read_start) * self.hop - piece.shape[1]
        return functional.pad(piece, (0, missing))

    def _to_model(self, audio: Tensor) -> Tensor:
        return audio.to(self._device(), torch.float32)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _check_codes(self, codes: Tensor) -> None:
        if codes.shape[1] != self.num_codebooks or codes.shape[0] < 1:
            raise CodecError(
                f"codes of shape {tuple(codes.shape)}, codec {self.name} needs at least one "
                f"channel of exactly {self.num_codebooks} codebooks"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise CodecError(
                f"codes from {int(codes.min())} to {int(codes.max())}, only 0 to "
                f"{self.codebook_size - 1} can be decoded: remove special tokens first"
            )


def fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace each weight-normed weight by its value, in place."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    return model


def _by_chunk(stacked: Tensor, num_chunks: int) -> Iterator[Tensor]:
    """Part a stack of chunks x channels into one tensor a chunk."""
    return iter(stacked.reshape(num_chunks, -1, *stacked.shape[1:]))


def _batches(chunks: Iterator[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Group neighbouring chunks that read equally long stretches."""
    for _, alike in groupby(chunks, key=lambda chunk: chunk.read_stop - chunk.read_start):
        while batch := list(islice(alike, size)):
            yield batch


def _check_audio(audio: Tensor) -> None:
    if not audio.is_floating_point():
        raise CodecError(f"audio of type {audio.dtype}, floating point in [-1, 1] is needed")
    if audio.ndim != 2 or audio.numel() == 0:
        raise CodecError(
            f"audio of shape {tuple(audio.shape)}, at least one channel and one sample are needed"
        )
    if not bool(torch.isfinite(audio).all()):
        raise CodecError("audio holds samples that are not finite numbers; normalise it first")
