"""`DacCodec`: a DAC behind the `Codec` interface, frozen, coding in exact overlapping chunks.

A chunk reads as many frames beyond its ends as the network sees, so its codes equal those of the
whole recording, whatever the chunk length, and memory stays bounded. Weight norm is folded into the
weights once. `melodac.codec.load` builds it.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm

from melodac.codec.architecture import DacArchitecture
from melodac.codec.chunks import Chunk, ChunkShape, read_chunks
from melodac.codec.compiled import compile_network
from melodac.codec.dac_import import DacModel
from melodac.codec.exact import ExactEncoder, Network
from melodac.codec.halo import decoder_halo, encoder_halo
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
        chunk_frames: int = 128,
        batch_chunks: int = 1,
        is_compiled: bool = False,
    ) -> None:
        """Freeze `model` for inference.

        Args:
            model: A DAC with its weights; changed in place.
            architecture: Its shape.
            name: Name of the weights.
            weights_sha256: Hash of the weights file.
            chunk_frames: Frames coded at once, without halo; never changes a result.
            batch_chunks: Chunks coded side by side; more than one pays on a GPU.
            is_compiled: Encode by compiled code: half a minute at the first chunk, then about a
                third faster, with equal codes.

        Raises:
            CodecError: A chunk would be empty, or nothing can be compiled here.
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
        self._encoder = ExactEncoder(parts, hop=self.hop, halo=self._encoder_halo)
        self._decoder_halo = decoder_halo(parts.decoder)
        self.chunk_frames, self.batch_chunks = chunk_frames, batch_chunks
        self._compiled = compile_network(parts.encoder) if is_compiled else None

    def encode(self, audio: Float[Tensor, "C N"]) -> Int64[Tensor, "C K T"]:
        """Encode each channel, chunk by chunk; see `Codec.encode`."""
        num_frames = -(-audio.shape[-1] // self.hop)
        codes = torch.empty(
            audio.shape[0], self.num_codebooks, num_frames, dtype=torch.int64, device=audio.device
        )
        return _fill(codes, self._encode(iter([audio])))

    def decode(self, codes: Int[Tensor, "C K T"]) -> Float[Tensor, "C N"]:
        """Decode each channel, chunk by chunk; see `Codec.decode`."""
        audio = torch.empty(codes.shape[0], codes.shape[-1] * self.hop, device=codes.device)
        return _fill(audio, self._decode(iter([codes])))

    def encode_blocks(
        self, blocks: Iterable[Float32[np.ndarray, "C _"]]
    ) -> Iterator[Int64[Tensor, "C K _"]]:
        """Encode a stream; see `Codec.encode_blocks`."""
        # copied, as a block that cannot be written to makes torch warn
        tensors = (torch.tensor(block) for block in blocks)
        return (codes.cpu() for codes in self._encode(tensors))

    def decode_blocks(
        self, blocks: Iterable[Int[Tensor, "C K _"]]
    ) -> Iterator[Float32[np.ndarray, "C _"]]:
        """Decode a stream; see `Codec.decode_blocks`."""
        return (audio.cpu().numpy() for audio in self._decode(iter(blocks)))

    @torch.no_grad()
    def code_vectors(self) -> Float32[Tensor, "K U G"]:
        """Return every code behind its output projection, at the width of the codebook.

        The projection W of a quantizer writes a narrow vector into a wide space, of which its codes
        fill no more than a narrow subspace. W = A S with A of orthonormal columns and S symmetric
        (polar decomposition), so `codebook @ S` keeps every inner product of `codebook @ W.T`; S is
        unique, so no sign and no order of axes has to be chosen. The bias is left out: it is the
        same for all codes.
        """
        vectors: list[Tensor] = []
        for quantizer in self._parts.quantizer.quantizers:
            # float64: the square of W has the square of its condition number
            projection = cast("nn.Conv1d", quantizer.out_proj).weight[..., 0].cpu().double()
            squares, axes = _eigen(projection.T @ projection)
            root = axes @ squares.clamp(min=0).sqrt().diag() @ axes.T
            vectors.append((quantizer.codebook.weight.cpu().double() @ root).float())
        return torch.stack(vectors)

    def _encode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        is_fixed = self._compiled is not None  # for each shape takes a compilation of its own
        shape = ChunkShape(self.chunk_frames, self._encoder_halo, self.hop, is_fixed)
        is_empty = True
        for batch in _batches(read_chunks(_alike(blocks, check_audio), shape), self.batch_chunks):
            is_empty = False
            windows = torch.stack([window for _, window in batch])
            kept = [chunk.kept for chunk, window in batch for _ in window]
            codes = self._encode_windows(windows.flatten(0, 1)[:, None], kept)
            for (chunk, _), piece in zip(batch, _by_chunk(codes, len(batch)), strict=True):
                yield piece[..., chunk.kept]
        if is_empty:
            raise CodecError("audio without a sample; at least one is needed")

    def _decode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        shape = ChunkShape(self.chunk_frames, self._decoder_halo, frame_length=1)
        chunks = read_chunks(_alike(blocks, self._check_codes), shape)
        for batch in _batches(chunks, self.batch_chunks):
            windows = torch.stack([window for _, window in batch])
            audio = self._decode_windows(windows.flatten(0, 1))
            for (chunk, _), piece in zip(batch, _by_chunk(audio, len(batch)), strict=True):
                yield piece[..., chunk.kept.start * self.hop : chunk.kept.stop * self.hop]

    @torch.inference_mode()
    def _encode_windows(self, audio: Tensor, kept: list[slice]) -> Tensor:
        audio = audio.to(self._device(), torch.float32)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._encoder.encode(audio, kept, self._network(audio.shape[-1]))

    def _network(self, num_samples: int) -> Network:
        """The fastest network for windows of this length: one length alone is compiled."""
        compiled = self._compiled
        window = self.chunk_frames + 2 * self._encoder_halo
        if compiled is None or num_samples != window * self.hop:
            return self._parts.encoder
        return lambda audio: torch.cat([compiled(row[None]) for row in audio])

    @torch.inference_mode()
    def _decode_windows(self, codes: Tensor) -> Tensor:
        latents = self._parts.quantizer.from_codes(codes.to(self._device(), torch.int64))[0]
        return self._parts.decoder(latents)[:, 0]

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

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


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.eigh(matrix))  # pyright: ignore[reportUnknownMemberType]  torch


def fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace each weight-normed weight by its value, in place."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    return model


def check_audio(audio: Tensor) -> None:
    """Refuse what no codec can encode.

    Raises:
        CodecError: The audio is not floating point, not finite or has no channels.
    """
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


def _by_chunk(stacked: Tensor, num_chunks: int) -> Iterator[Tensor]:
    """Part a stack of chunks x channels into one tensor a chunk."""
    return iter(stacked.reshape(num_chunks, -1, *stacked.shape[1:]))


def _batches(
    chunks: Iterator[tuple[Chunk, Tensor]], size: int
) -> Iterator[list[tuple[Chunk, Tensor]]]:
    """Group neighbouring chunks that read equally long windows."""
    for _, alike in groupby(chunks, key=lambda chunk: chunk[1].shape):
        while batch := list(islice(alike, size)):
            yield batch
