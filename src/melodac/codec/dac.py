"""`DacCodec`: a DAC behind the `Codec` interface, with frozen weights, coding in exact chunks.

A chunk also reads the receptive field beyond its ends, so its codes equal those of the whole
recording, whatever the chunk length, and memory stays bounded. A stack of convolutions maps
positions linearly: output i reads the inputs from `first + i x step` to `last + i x step`. These
numbers follow from kernel, stride, dilation and padding of every layer, and from them follows the
halo: the frames a chunk must read beyond each end. Weight norm is folded into the weights once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, islice
from typing import cast

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm

from melodac.codec.architecture import DacArchitecture, DacModel
from melodac.codec.exact import ExactEncoder, Network, compile_network
from melodac.codec.streams import Chunk, ChunkShape, StreamingCodec, read_chunks
from melodac.errors import CodecError


@dataclass(frozen=True)
class InputSpan:
    """Inputs that output 0 of a network reads, as positions; output i reads i x step further on."""

    first: Fraction
    last: Fraction
    step: Fraction
    """Input positions per output position: the hop for an encoder, its inverse for a decoder."""


def input_span(network: nn.Module) -> InputSpan:
    """Compute the inputs that output 0 of a chain of one-dimensional convolutions reads.

    Residual branches keep the length, so counting their layers only widens the span.

    Raises:
        CodecError: The network has no convolution.
    """
    layers = [
        layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    ]
    if not layers:
        raise CodecError("a network without convolutions has no input span")
    first, last, step = Fraction(0), Fraction(0), Fraction(1)
    # from the output back to the input
    for layer in reversed(layers):
        padding = _only(layer.padding)
        reach = (layer.kernel_size[0] - 1) * layer.dilation[0]
        stride = layer.stride[0]
        if isinstance(layer, nn.ConvTranspose1d):
            # output o reads inputs i with 0 <= o + padding - i x stride <= reach
            first, last = (first + padding - reach) / stride, (last + padding) / stride
            step /= stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
            step *= stride
    return InputSpan(first, last, step)


def encoder_halo(encoder: nn.Module) -> int:
    """Return the frames that an encoder reads beyond each end of a chunk."""
    span = input_span(encoder)
    before, after = -span.first / span.step, (span.last + 1) / span.step - 1
    return max(0, math.ceil(before), math.ceil(after))


def decoder_halo(decoder: nn.Module) -> int:
    """Return the frames that a decoder reads beyond each end of a chunk."""
    span = input_span(decoder)
    hop = 1 / span.step
    # the first sample of a frame reaches furthest back, the last one furthest forward
    last_sample = span.last + (hop - 1) * span.step
    return max(0, math.ceil(-span.first), math.ceil(last_sample))


def _only(padding: str | tuple[int, ...]) -> int:
    if isinstance(padding, str):
        raise CodecError(
            f"convolutions must name their padding in samples; this one says {padding!r}"
        )
    return padding[0]


class DacCodec(StreamingCodec):
    """DAC with frozen weights as a `Codec`."""

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
            architecture: Shape of the model.
            name: Name of the weights.
            weights_sha256: Hash of the weights file.
            chunk_frames: Frames coded at once, without halo; never changes a result.
            batch_chunks: Chunks coded in one batch; more than one pays on a GPU.
            is_compiled: Compile the encoder: half a minute at the first chunk, then about a third
                faster, with equal codes.

        Raises:
            CodecError: `chunk_frames` or `batch_chunks` is below 1, or nothing can be compiled.
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

    @torch.no_grad()
    def code_vectors(self) -> Float32[Tensor, "K U Z"]:
        """Return every code after its output projection, at the width of the codebook.

        The projection W of a quantizer maps a narrow vector into a wide space, where its codes span
        a narrow subspace only. W = A S with A of orthonormal columns and S symmetric (polar
        decomposition), so `codebook @ S` keeps every inner product of `codebook @ W.T`; S is
        unique, so no sign and no order of axes has to be chosen. The bias is left out: it is the
        same for all codes.
        """
        vectors: list[Tensor] = []
        for quantizer in self._parts.quantizer.quantizers:
            # float64: the condition number of W^T W is that of W squared
            projection = cast("nn.Conv1d", quantizer.out_proj).weight[..., 0].cpu().double()
            squares, axes = _eigen(projection.T @ projection)
            root = axes @ squares.clamp(min=0).sqrt().diag() @ axes.T
            vectors.append((quantizer.codebook.weight.cpu().double() @ root).float())
        return torch.stack(vectors)

    def _encode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        is_fixed = self._compiled is not None  # every new shape would be compiled anew
        shape = ChunkShape(self.chunk_frames, self._encoder_halo, self.hop, is_fixed)
        for batch in _batches(read_chunks(blocks, shape), self.batch_chunks):
            windows = torch.stack([window for _, window in batch])
            kept = [chunk.kept for chunk, window in batch for _ in window]
            codes = self._encode_windows(windows.flatten(0, 1)[:, None], kept)
            for (chunk, _), piece in zip(batch, _by_chunk(codes, len(batch)), strict=True):
                yield piece[..., chunk.kept]

    def _decode(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        shape = ChunkShape(self.chunk_frames, self._decoder_halo, frame_length=1)
        for batch in _batches(read_chunks(blocks, shape), self.batch_chunks):
            windows = torch.stack([window for _, window in batch])
            audio = self._decode_windows(windows.flatten(0, 1))
            for (chunk, _), piece in zip(batch, _by_chunk(audio, len(batch)), strict=True):
                yield piece[..., chunk.kept.start * self.hop : chunk.kept.stop * self.hop]

    @torch.inference_mode()
    def _encode_windows(self, audio: Tensor, kept: list[slice]) -> Tensor:
        audio = audio.to(self._device(), torch.float32)
        # TF32 keeps 10 bits of mantissa, which would change codes
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._encoder.encode(audio, kept, self._network(audio.shape[-1]))

    def _network(self, num_samples: int) -> Network:
        """Return the fastest network for windows of this length; only one length is compiled."""
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


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix."""
    return cast("tuple[Tensor, Tensor]", torch.linalg.eigh(matrix))  # pyright: ignore[reportUnknownMemberType]  torch


def fold_weight_norm(model: nn.Module) -> nn.Module:
    """Replace each weight-normed weight by its value, in place."""
    for module in model.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    return model


def _by_chunk(stacked: Tensor, num_chunks: int) -> Iterator[Tensor]:
    """Split a stack of chunks x channels into one tensor per chunk."""
    return iter(stacked.reshape(num_chunks, -1, *stacked.shape[1:]))


def _batches(
    chunks: Iterator[tuple[Chunk, Tensor]], size: int
) -> Iterator[list[tuple[Chunk, Tensor]]]:
    """Group neighbouring chunks whose windows have the same length."""
    for _, alike in groupby(chunks, key=lambda chunk: chunk[1].shape):
        while batch := list(islice(alike, size)):
            yield batch
