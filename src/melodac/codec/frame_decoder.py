"""The bundled codec's decoder: frames of features to sound, at frame rate until the last step.

A convolutional network (ConvNeXt blocks, as in Vocos, arXiv:2306.00814) says for every frame how
loud each bin of a long window is, and how loud bands of noise are in short ones. Phases are not
learned: a network that moves from frame to frame cannot count the turns of a partial, and repeats
itself at the frame rate, which is heard as a buzz. Sharp peaks of the long window's spectrum keep
turning at their own frequency (single-pass spectrogram inversion: Beauregard, Harish and Wyse 2015,
with the phase locking of Laroche and Dolson 1999); all else has phases that look random.
"""

import math
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from melodac.config import Section

WINDOW = 2048
"""Samples of a tonal frame; four hops."""
NUM_BINS = WINDOW // 2 + 1
NOISE_WINDOW = 512
"""Samples of a noise slice; its hop is a quarter of a frame."""
NUM_NOISE_SLICES = 4
OVERLAP = 2
"""Frames on either side that sound into a frame."""
TONE_CURVATURE = 0.7
"""Minus the second difference of log magnitudes that makes a peak a tone. A pure tone has 1.4 to 1.6
under a Hann window; a peak half as sharp as this is half a tone, half noise."""
_KERNEL = 7


class FrameDecoderShape(Section):
    """Sizes of the network."""

    dim: Annotated[int, Field(ge=8, le=4096)] = 256
    """Channels of the blocks."""
    num_blocks: Annotated[int, Field(ge=1, le=64)] = 6
    widening: Annotated[int, Field(ge=1, le=8)] = 3
    """Width inside a block over its channels."""
    num_noise_bands: Annotated[int, Field(ge=4, le=257)] = 48
    """Bands of a noise slice, evenly spaced on the mel scale."""

    @property
    def receptive_field(self) -> int:
        """Frames on either side that a frame's description depends on."""
        return (_KERNEL // 2) * (self.num_blocks + 1)


class Spectra(NamedTuple):
    """What is to be heard."""

    tonal: Float[Tensor, "B T F"]
    """Natural logarithm of magnitudes; a full-scale sine has 0."""
    noise: Float[Tensor, "B T J F"]
    """The same of each noise slice."""


class Block(nn.Module):
    """Depthwise convolution, then a feed-forward of each frame, added to the input."""

    def __init__(self, dim: int, widening: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, widening * dim)
        self.down = nn.Linear(widening * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Add what the block has to say."""
        mixed = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.down(functional.gelu(self.up(self.norm(mixed))))


class FrameDecoder(nn.Module):
    """Points of the quantizer to spectra."""

    noise_bands: Tensor

    def __init__(self, shape: FrameDecoderShape, num_directions: int, sample_rate_hz: int) -> None:
        super().__init__()
        self.shape = shape
        self.enter = nn.Conv1d(num_directions, shape.dim, _KERNEL, padding=_KERNEL // 2)
        self.norm = nn.LayerNorm(shape.dim)
        self.blocks = nn.ModuleList(
            Block(shape.dim, shape.widening, 1 / shape.num_blocks) for _ in range(shape.num_blocks)
        )
        self.last_norm = nn.LayerNorm(shape.dim)
        self.tonal = nn.Linear(shape.dim, NUM_BINS)
        self.noise = nn.Linear(shape.dim, NUM_NOISE_SLICES * shape.num_noise_bands)
        self.outline = nn.Linear(num_directions, NUM_BINS)
        """Linear guess of the tonal spectrum; fitted before training, then trained on."""
        self.register_buffer(
            "noise_bands", _interpolation(shape.num_noise_bands, sample_rate_hz), persistent=False
        )
        with torch.no_grad():
            for layer in (self.tonal, self.noise):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.noise.bias.fill_(-9.0)  # hardly to be heard at first

    def forward(self, points: Float[Tensor, "B T G"]) -> Spectra:
        """Say how loud everything is."""
        x = self.norm(self.enter(points.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        noise = self.noise(x).unflatten(-1, (NUM_NOISE_SLICES, -1)) @ self.noise_bands
        return Spectra(self.outline(points) + self.tonal(x), noise)


def turn_phases(
    tonal: Float[Tensor, "B T F"], before: Float[Tensor, "B F"], first_frame: int
) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B T F"]]:
    """Give every frame phases at its centre, in turns.

    Sharp peaks go on without a jump; where the spectrum is smooth there is no tone, and phases
    are scattered from frame to frame and from bin to bin, which is noise.

    Args:
        tonal: Log magnitudes of the frames.
        before: Turned phases of the frame before the first.
        first_frame: Index of the first frame in the recording, which the scattering depends on.

    Returns:
        Turned phases without the scattering, which the next frames go on from, and phases to sound.
    """
    peaks, advance, tonality = _follow_peaks(tonal.detach())
    turned = torch.empty_like(advance)
    for frame in range(tonal.shape[1]):
        # a bin follows the peak that it belongs to, from where that peak's bin stood
        before = (before.gather(1, peaks[:, frame]) + advance[:, frame]).remainder(1.0)
        turned[:, frame] = before
    frames = torch.arange(first_frame, first_frame + tonal.shape[1], device=tonal.device)
    bins = torch.arange(NUM_BINS, device=tonal.device)
    scattered = _scattered(frames[:, None] * NUM_BINS + bins).to(tonal.dtype)
    return turned, turned + (1.0 - tonality) * scattered


def first_phases(num_items: int) -> Float[Tensor, "B F"]:
    """Phases before the first frame of a recording: scattered, as a pulse would be heard."""
    return _scattered(torch.arange(NUM_BINS)).expand(num_items, -1)


def sound_tonal(spectra: Spectra, phases: Float[Tensor, "B T F"]) -> Float[Tensor, "B N"]:
    """Overlap-add the tonal frames: N = T hops, from the start of the first frame."""
    spectrum = torch.polar(spectra.tonal.exp(), phases.to(spectra.tonal.dtype) * (2 * math.pi))
    sound, weight = _overlap_add(torch.fft.irfft(spectrum * _centred(NUM_BINS), n=WINDOW))
    # at the ends of a recording fewer frames overlap
    return sound / weight.clamp(min=0.1) * (WINDOW / 4)


def sound_noise(spectra: Spectra, first_frame: int) -> Float[Tensor, "B N"]:
    """Overlap-add the noise slices: N = T hops, from the start of the first frame.

    Args:
        spectra: Of consecutive frames.
        first_frame: Index of the first in the recording, from which its phases follow.
    """
    noise = spectra.noise.flatten(1, 2)
    num_bins = noise.shape[-1]
    slices = torch.arange(noise.shape[1], device=noise.device) + first_frame * NUM_NOISE_SLICES
    bins = torch.arange(num_bins, device=noise.device)
    phases = _scattered(slices[:, None] * num_bins + bins).to(noise.dtype)
    spectrum = torch.polar(noise.exp(), (phases * (2 * math.pi)).expand_as(noise))
    sound, _ = _overlap_add(torch.fft.irfft(spectrum, n=NOISE_WINDOW))
    return sound * (NOISE_WINDOW / 4 / 1.5)


def _follow_peaks(tonal: Float[Tensor, "B T F"]) -> tuple[Int64[Tensor, "B T F"], Tensor, Tensor]:
    """Find the nearest peak of every bin, how far it turns in a hop, how much of a tone it is."""
    left, mid, right = tonal[..., :-2], tonal[..., 1:-1], tonal[..., 2:]
    is_peak = functional.pad((mid > left) & (mid >= right), (1, 1))
    # vertex of the parabola through a peak and its neighbours; exact for a Gaussian window
    curve = (left - 2 * mid + right).clamp(max=-1e-6)
    offset = functional.pad((0.5 * (left - right) / curve).clamp(-0.5, 0.5), (1, 1))
    sharpness = functional.pad((curve / -TONE_CURVATURE).clamp(max=1.0), (1, 1))
    bins = torch.arange(NUM_BINS, device=tonal.device).expand_as(is_peak)
    far = 4 * NUM_BINS
    below = torch.where(is_peak, bins, -far).cummax(-1).values
    above = torch.where(is_peak, bins, far).flip(-1).cummin(-1).values.flip(-1)
    peaks = torch.where(bins - below <= above - bins, below, above)
    peaks = torch.where((peaks < 0) | (peaks >= NUM_BINS), bins, peaks)
    frequency = peaks + offset.gather(-1, peaks)
    # a hop is a quarter of the window
    return peaks, (frequency / 4).remainder(1.0), sharpness.gather(-1, peaks)


def _overlap_add(frames: Float[Tensor, "B T W"]) -> tuple[Float[Tensor, "B N"], Tensor]:
    """Sum windowed frames that lie a quarter of their length apart, and their squared windows.

    Frames are centred: of the sum, 1.5 quarters at either end stick out and are cut off.
    """
    num_frames, length = frames.shape[1:]
    hann = torch.hann_window(length, dtype=frames.dtype, device=frames.device)
    squares = hann.square().expand(1, num_frames, -1)

    def add(parts: Tensor) -> Tensor:
        quarters = parts.unflatten(-1, (4, length // 4)).unbind(2)
        padded = [functional.pad(q, (0, 0, i, 3 - i)) for i, q in enumerate(quarters)]
        return torch.stack(padded).sum(0).flatten(1)[:, length * 3 // 8 : -length * 3 // 8]

    return add(frames * hann), add(squares)


def _centred(num_bins: int) -> Tensor:
    """Signs that move the origin of phase to the middle of the window."""
    return 1.0 - 2.0 * (torch.arange(num_bins) % 2)


def _scattered(index: Int64[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Numbers in 0..1 that look random, each a function of its index alone.

    Source: the finaliser of MurmurHash3 (Appleby, public domain), 32 bits.
    """
    mask = 0xFFFFFFFF
    x = (index + 1) * 0x9E3779B1 & mask
    x = (x ^ (x >> 16)) * 0x85EBCA6B & mask
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & mask
    return ((x ^ (x >> 16)) >> 8).double() / 2**24


def _interpolation(num_bands: int, sample_rate_hz: int) -> Tensor:
    """Matrix that draws a line through bands on the mel scale, as bins of a noise slice."""
    num_bins = NOISE_WINDOW // 2 + 1
    hertz = torch.arange(num_bins) * (sample_rate_hz / NOISE_WINDOW)
    mel = torch.log1p(hertz / 700.0)
    place = mel / mel[-1] * (num_bands - 1)
    distance = (place[None] - torch.arange(num_bands)[:, None]).abs()
    return (1.0 - distance).clamp(min=0.0)
