"""Encoder of the bundled codec: magnitudes of each frame, never phase, as nine codes.

A held note looks the same in every frame, so its codes repeat and a language model can learn them.
A frame is described by three views of the sound around its centre: single bins of a long window
in the bass, bands of a shorter one above, and the change of level in some bands within the frame.
Principal components of these go through a residual quantizer, one nearest vector per codebook.

Codes are a function of the samples alone, however the recording was cut: given float64 samples the
computation is float64 but for one float32 product per codebook, whose rounding is bounded. If the
two nearest vectors are closer than that bound, float64 decides.
"""

import math
from typing import Annotated, cast

import librosa
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from melodac.config import Section

LONG, MIDDLE, SHORT = 4096, 2048, 512
"""Window lengths, in samples: for bass partials, for bands, and for the shape of attacks."""
NUM_SLICES = 4
"""Short windows per frame, which show where in it a sound begins."""
HALO = 4
"""Look-ahead and look-back of a frame, in frames: half of `LONG`, in hops of 512."""
_SPLIT_HZ = 1000.0
_TOP_HZ = 20_000.0
_ROUNDING = 2.0**-23


class FrontEndShape(Section):
    """Sizes of the front end; the module's constants fix the rest of the analysis."""

    sample_rate: Annotated[int, Field(ge=8000, le=192_000)] = 44_100
    """Sample rate, in Hz."""
    hop: Annotated[int, Field(ge=64, le=4096)] = 512
    """Samples per frame."""
    num_bands: Annotated[int, Field(ge=8, le=256)] = 112
    """Bands from 1 to 20 kHz, evenly spaced in pitch."""
    num_slice_bands: Annotated[int, Field(ge=2, le=64)] = 20
    """Mel bands of the short window."""
    slice_weight: Annotated[float, Field(ge=0.0, le=4.0)] = 0.5
    """Weight of the level changes within a frame, relative to the other two views."""
    floor: Annotated[float, Field(gt=0.0, le=1e-2)] = 5e-6
    """Magnitude added before the logarithm; a full-scale sine has 1."""
    num_directions: Annotated[int, Field(ge=8, le=512)] = 128
    """Principal components that are quantized."""
    num_codebooks: Annotated[int, Field(ge=1, le=32)] = 9
    codebook_size: Annotated[int, Field(ge=2, le=65536)] = 1024

    @property
    def num_low_bins(self) -> int:
        """Bins of the long window between 20 Hz and 1 kHz."""
        return math.ceil(_SPLIT_HZ * LONG / self.sample_rate) - 2

    @property
    def num_features(self) -> int:
        """Features of one frame before the projection to principal components."""
        return self.num_low_bins + self.num_bands + NUM_SLICES * self.num_slice_bands


class FrontEnd(nn.Module):
    """Analysis of samples as features, in the type of the samples; it has no parameters."""

    bands: Tensor
    slice_bands: Tensor

    def __init__(self, shape: FrontEndShape) -> None:
        super().__init__()
        self.shape = shape
        rate_hz = shape.sample_rate
        edges = torch.logspace(
            math.log10(_SPLIT_HZ), math.log10(_TOP_HZ), shape.num_bands + 2, dtype=torch.float64
        )
        bank = librosa.filters.mel(sr=rate_hz, n_fft=SHORT, n_mels=shape.num_slice_bands, norm=None)
        slices = torch.as_tensor(bank, dtype=torch.float64)
        self.register_buffer("bands", _triangles(edges, MIDDLE, rate_hz), persistent=False)
        self.register_buffer("slice_bands", slices / slices.sum(1, keepdim=True), persistent=False)

    def forward(self, audio: Float[Tensor, "B N"]) -> Float[Tensor, "B T _"]:
        """Describe every whole frame of `audio`, with silence beyond both of its ends."""
        hop = self.shape.hop
        num_frames = audio.shape[-1] // hop
        padded = nn.functional.pad(audio, (LONG // 2, LONG // 2))
        bands, slice_bands = self.bands.to(audio.dtype), self.slice_bands.to(audio.dtype)

        def magnitudes(length: int, step: int, bins: slice) -> Tensor:
            start = (LONG + step - length) // 2  # centres the first window half a step in
            stop = start + (num_frames * hop // step - 1) * step + length
            hann = torch.hann_window(length, dtype=audio.dtype, device=audio.device)
            windows = padded[:, start:stop].unfold(-1, length, step) * (hann / (length / 4))
            # untyped in torch
            spectrum = cast("Tensor", torch.fft.rfft(windows))  # pyright: ignore[reportUnknownMemberType]
            squares = torch.view_as_real(spectrum[..., bins]).square()
            return (squares[..., 0] + squares[..., 1]).sqrt()  # three times faster than abs()

        # bins 0 and 1 lie below 20 Hz and are left out
        low = magnitudes(LONG, hop, slice(2, 2 + self.shape.num_low_bins))
        high = magnitudes(MIDDLE, hop, slice(None)) @ bands.T
        slices = magnitudes(SHORT, hop // NUM_SLICES, slice(None)) @ slice_bands.T
        slices = self._log(slices).reshape(len(audio), num_frames, NUM_SLICES, -1)
        moves = self.shape.slice_weight * (slices - slices.mean(2, keepdim=True))
        return torch.cat([self._log(low), self._log(high), moves.flatten(2)], dim=-1)

    def _log(self, magnitude: Tensor) -> Tensor:
        return (magnitude + self.shape.floor).log10()


class ResidualQuantizer(nn.Module):
    """Residual quantizer: each codebook codes what the ones before it left over."""

    mean: Tensor
    directions: Tensor
    vectors: Tensor

    def __init__(self, shape: FrontEndShape) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape.num_features))
        self.register_buffer("directions", torch.zeros(shape.num_directions, shape.num_features))
        self.register_buffer(
            "vectors", torch.zeros(shape.num_codebooks, shape.codebook_size, shape.num_directions)
        )

    def project(self, features: Float[Tensor, "... _"]) -> Float[Tensor, "... _"]:
        """Return the coordinates of features along the principal directions, in float64."""
        return (features.double() - self.mean.double()) @ self.directions.double().T

    def encode(self, points: Float[Tensor, "T _"]) -> Int64[Tensor, "K T"]:
        """Choose the codes of each frame, exactly; see the module docstring."""
        residual = points.double().clone()
        codes: list[Tensor] = []
        for vectors in self.vectors:
            chosen = nearest(residual, vectors)
            codes.append(chosen)
            residual.sub_(vectors.index_select(0, chosen))
        return torch.stack(codes)

    def decode(self, codes: Int64[Tensor, "B K T"]) -> Float[Tensor, "B T _"]:
        """Sum the vectors of the codes; the first codebooks alone give a coarser point."""
        books = codes.shape[1]
        parts = [self.vectors[book][codes[:, book]] for book in range(books)]
        return torch.stack(parts).sum(0)


def nearest(points: Float[Tensor, "T _"], vectors: Float[Tensor, "U _"]) -> Int64[Tensor, " T"]:
    """Find the vector nearest to each point, as exact arithmetic would choose it."""
    # argmin |x - y|^2 = argmax (x.y - |y|^2 / 2)
    half = vectors.square().sum(1) / 2
    scores = torch.addmm(-half, points.float(), vectors.T)
    best, chosen = scores.max(dim=-1)
    # |error of a dot product of n terms| <= n eps |x||y|, Higham 2002, (3.5); here for the product
    # and for the squares, in both scores
    largest = half.amax()
    sizes = points.float().square().sum(1).sqrt() * (2 * largest).sqrt() + largest
    least = best - 2 * (points.shape[-1] + 2) * _ROUNDING * sizes
    rivals = scores.scatter(-1, chosen[:, None], -torch.inf).amax(dim=-1)
    close = (rivals >= least).nonzero()[:, 0]
    if len(close):
        row, vector = (scores[close] >= least[close, None]).nonzero().unbind(1)
        candidates = vectors[vector].double()
        products = (points[close[row]].double() * candidates).sum(1)
        exact = points.new_full((len(close), len(vectors)), -torch.inf, dtype=torch.float64)
        exact[row, vector] = products - candidates.square().sum(1) / 2
        chosen[close] = exact.argmax(-1)
    return chosen


def _triangles(edges_hz: Tensor, window: int, rate_hz: int) -> Tensor:
    """Build triangular bands between neighbouring edges, each with unit sum."""
    centres = torch.arange(window // 2 + 1, dtype=torch.float64) * rate_hz / window
    low, mid, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rise, fall = (centres - low) / (mid - low), (high - centres) / (high - mid)
    bank = torch.minimum(rise, fall).clamp(min=0.0)
    return bank / bank.sum(1, keepdim=True)
