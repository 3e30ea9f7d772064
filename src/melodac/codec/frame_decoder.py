"""Decoder of the bundled codec: from features to sound, at frame rate until the last step.

A convolutional network (ConvNeXt blocks, as in Vocos, arXiv:2306.00814) predicts for every frame
the magnitude of each bin of a long window, and of noise bands in short ones. Phases are not
predicted: a network that works frame by frame cannot count the turns of a partial and repeats
itself at the frame rate, which is heard as a buzz. Sharp peaks of the long window's spectrum go on
at their own frequency (single-pass spectrogram inversion: Beauregard, Harish and Wyse 2015, with
the phase locking of Laroche and Dolson 1999); everything else gets pseudo-random phases.
"""

import math
from typing import Annotated, NamedTuple, cast

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
"""Frames on either side that overlap a frame."""
TONE_CURVATURE = 0.7
"""Negative second difference of log magnitudes from which a peak counts fully as a tone.

A pure tone has 1.4 to 1.6 under a Hann window; a peak half as sharp as this value is half a tone,
half noise."""
_KERNEL = 7


class FrameDecoderShape(Section):
    """Sizes of the decoder network."""

    dim: Annotated[int, Field(ge=8, le=4096)] = 256
    """Channels of the residual stream."""
    num_blocks: Annotated[int, Field(ge=1, le=64)] = 6
    widening: Annotated[int, Field(ge=1, le=8)] = 3
    """Ratio of the width inside a block to its channels."""
    num_noise_bands: Annotated[int, Field(ge=4, le=257)] = 48
    """Bands of a noise slice, evenly spaced on the mel scale."""

    @property
    def receptive_field(self) -> int:
        """Frames on either side that the network reads for one frame."""
        return (_KERNEL // 2) * (self.num_blocks + 1)


class Spectra(NamedTuple):
    """Log magnitudes of the tonal frames and of the noise slices."""

    tonal: Float[Tensor, "B T F"]
    """Natural logarithm of magnitudes; a full-scale sine has 0."""
    noise: Float[Tensor, "B T _ F"]
    """Natural logarithm of magnitudes of each noise slice."""


class DecoderBlock(nn.Module):
    """ConvNeXt block: depthwise convolution, then a feed-forward of each frame, plus the input."""

    def __init__(self, dim: int, widening: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, widening * dim)
        self.down = nn.Linear(widening * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the input plus the block's contribution."""
        mixed = _along_frames(self.depthwise, x)
        widened = functional.gelu(self.up(self.norm(mixed)))
        return torch.addcmul(x, self.scale, self.down(widened))


class FrameDecoder(nn.Module):
    """Network from quantized points to spectra."""

    noise_bands: Tensor

    def __init__(self, shape: FrameDecoderShape, num_directions: int, sample_rate_hz: int) -> None:
        super().__init__()
        self.shape = shape
        self.enter = nn.Conv1d(num_directions, shape.dim, _KERNEL, padding=_KERNEL // 2)
        self.norm = nn.LayerNorm(shape.dim)
        self.blocks = nn.ModuleList(
            DecoderBlock(shape.dim, shape.widening, 1 / shape.num_blocks)
            for _ in range(shape.num_blocks)
        )
        self.last_norm = nn.LayerNorm(shape.dim)
        self.tonal = nn.Linear(shape.dim, NUM_BINS)
        self.noise = nn.Linear(shape.dim, NUM_NOISE_SLICES * shape.num_noise_bands)
        self.outline = nn.Linear(num_directions, NUM_BINS)
        """Linear estimate of the tonal spectrum; fitted before training, then trained."""
        self.register_buffer(
            "noise_bands", _interpolation(shape.num_noise_bands, sample_rate_hz), persistent=False
        )
        with torch.no_grad():
            for layer in (self.tonal, self.noise):
                layer.weight.mul_(0.1)
                layer.bias.zero_()
            self.noise.bias.fill_(-9.0)  # natural log: -78 dB, so noise starts hardly audible

    def forward(self, points: Float[Tensor, "B T _"]) -> Spectra:
        """Predict the log magnitudes of every frame."""
        x = self.norm(_along_frames(self.enter, points))
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        noise = self.noise(x).unflatten(-1, (NUM_NOISE_SLICES, -1)) @ self.noise_bands
        tonal = self.outline(points) + self.tonal(x)
        # codes that never occur together in music, but may in generated codes, can sum to anything
        return Spectra(tonal.clamp(max=0.0), noise.clamp(max=0.0))


def turn_phases(
    tonal: Float[Tensor, "B T F"], before: Float[Tensor, "B F"], first_frame: int
) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B T F"]]:
    """Compute the phases of every frame at its centre, in turns.

    Sharp peaks continue without a jump; where the spectrum is smooth there is no tone, and phases
    are scattered from frame to frame and from bin to bin, which sounds as noise.

    Args:
        tonal: Log magnitudes of the frames.
        before: Phases, in turns, of the frame before the first, without the scattering.
        first_frame: Index of the first frame in the recording; it seeds the scattering.

    Returns:
        Phases without the scattering, from which the next frames continue, and phases to use.
    """
    peaks, advance, tonality = _follow_peaks(tonal.detach())
    turned = torch.empty_like(advance)
    frames = (peaks.unbind(1), advance.unbind(1), turned.unbind(1))
    for peak, turns, after in zip(*frames, strict=True):
        # a bin takes its peak's phase of the frame before (phase locking) and that peak's advance
        torch.gather(before, 1, peak, out=after)
        before = after.add_(turns).frac_()
    scattered = _scatter(first_frame, tonal.shape[1], NUM_BINS, tonal.device)
    return turned, turned + (1.0 - tonality) * scattered


def first_phases(num_items: int) -> Float[Tensor, "B F"]:
    """Return scattered phases for the frame before the first; equal ones would sound as a pulse."""
    return _scatter(0, 1, NUM_BINS, torch.device("cpu")).repeat(num_items, 1)


def sound_tonal(spectra: Spectra, phases: Float[Tensor, "B T F"]) -> Float[Tensor, "B N"]:
    """Overlap-add the tonal frames: N = T hops, from the start of the first frame."""
    # alternating signs shift the time origin from the window's start to its middle
    signs = 1.0 - 2.0 * (torch.arange(NUM_BINS, device=phases.device) % 2)
    frames = _invert(spectra.tonal.exp() * signs, phases, WINDOW)
    # at the ends of a recording fewer frames overlap, but their weight is never below half
    weight = _overlap_add(torch.ones_like(frames[:1, :, :1]).expand(1, -1, WINDOW), power=2)
    return _overlap_add(frames, power=1) * (WINDOW / 4) / weight


def sound_noise(spectra: Spectra, first_frame: int) -> Float[Tensor, "B N"]:
    """Overlap-add the noise slices: N = T hops, from the start of the first frame.

    Args:
        spectra: Spectra of consecutive frames.
        first_frame: Index of the first one in the recording; it seeds the phases.
    """
    noise = spectra.noise.flatten(1, 2)
    first_slice, num_slices = first_frame * NUM_NOISE_SLICES, noise.shape[1]
    phases = _scatter(first_slice, num_slices, noise.shape[2], noise.device)
    frames = _invert(noise.exp(), phases, NOISE_WINDOW)
    return _overlap_add(frames, power=1) * (NOISE_WINDOW / 4 / 1.5)


def _along_frames(layer: nn.Conv1d, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T _"]:
    """Convolve over frames, in two dimensions: channels may then stay last, which saves copies."""
    padding = (0, _KERNEL // 2)
    image, weight = x.transpose(1, 2)[:, :, None], layer.weight[:, :, None]
    mixed = functional.conv2d(image, weight, layer.bias, padding=padding, groups=layer.groups)
    return mixed[:, :, 0].transpose(1, 2)


def _follow_peaks(
    tonal: Float[Tensor, "B T F"],
) -> tuple[Int64[Tensor, "B T F"], Float[Tensor, "B T F"], Float[Tensor, "B T F"]]:
    """Find for every bin the nearest peak, its phase advance per hop in turns, and its tonality."""
    # all frames as one line; edge bins are never peaks, so no peak or neighbour crosses a frame
    levels = tonal.flatten()
    is_rise = levels.diff() > 0
    is_peak = functional.pad(is_rise[:-1] & ~is_rise[1:], (1, 1)).view(-1, NUM_BINS)
    is_peak[:, [0, -1]] = False
    # a frame without a peak is led by bin 1, which is no tone there
    is_peak[:, 1] |= is_peak.to(torch.uint8).amax(1) == 0
    row, peaks = is_peak.nonzero().unbind(1)
    places = row * NUM_BINS + peaks
    left, mid, right = (levels.index_select(0, places + step) for step in (-1, 0, 1))
    # vertex of the parabola through a peak and its neighbours; exact for a Gaussian window
    curve = (left - 2 * mid + right).clamp(max=-1e-6)
    offset = (0.5 * (left - right) / curve).clamp(-0.5, 0.5)
    tonality = (curve / -TONE_CURVATURE).clamp(max=1.0)
    advance = ((peaks + offset) / 4).frac()  # a hop is a quarter of the window
    # a peak leads the bins up to the middle between it and the next, or to the end of its frame
    middle = ((places[:-1] + places[1:]) >> 1) + 1
    stops = torch.where(row[1:] == row[:-1], middle, row[1:] * NUM_BINS)
    ends = functional.pad(functional.pad(stops, (1, 0)), (0, 1), value=tonal.numel())
    leader = torch.repeat_interleave(ends.diff(), output_size=tonal.numel())
    spread = [x.index_select(0, leader).view_as(tonal) for x in (peaks, advance, tonality)]
    return spread[0], spread[1], spread[2]


def _invert(
    magnitudes: Float[Tensor, "B T F"], turns: Float[Tensor, "... T F"], window: int
) -> Float[Tensor, "B T W"]:
    """Invert spectra given by magnitudes, and phases in turns."""
    angles = turns * (2 * math.pi)
    spectrum = torch.complex(magnitudes * angles.cos(), magnitudes * angles.sin())
    return cast("Tensor", torch.fft.irfft(spectrum, n=window))  # pyright: ignore[reportUnknownMemberType]  untyped


def _overlap_add(frames: Float[Tensor, "B T W"], power: int) -> Float[Tensor, "B N"]:
    """Sum frames under a power of a Hann window, at hops of a quarter of their length.

    Frames are centred in their hop, so 1.5 hops at either end of the sum are cut off.
    """
    num_items, num_frames, length = frames.shape
    hann = torch.hann_window(length, dtype=frames.dtype, device=frames.device).pow(power)
    total = frames.new_zeros(num_items, num_frames + 3, length // 4)
    quarters = zip(frames.chunk(4, dim=-1), hann.chunk(4), strict=True)
    for index, (quarter, window) in enumerate(quarters):
        total[:, index : index + num_frames].addcmul_(quarter, window)
    return total.flatten(1)[:, length * 3 // 8 : -length * 3 // 8]


def _scatter(
    first_row: int, num_rows: int, num_columns: int, device: torch.device
) -> Float[Tensor, "T F"]:
    """Return pseudo-random numbers in 0..1, each a function of its row and column alone.

    Source: the finalizer of MurmurHash3 (Appleby, public domain), 32 bits.
    """
    rows = torch.arange(first_row, first_row + num_rows, device=device)[:, None] * num_columns
    columns = torch.arange(1, num_columns + 1, device=device)
    # the hash is modulo 2^32, as is int32 overflow; `>>` is arithmetic, so the mask drops the sign
    x = (rows * 0x9E3779B1).to(torch.int32) + (columns * 0x9E3779B1).to(torch.int32)
    x = x.bitwise_xor_((x >> 16) & 0xFFFF).mul_(0x85EBCA6B - (1 << 32))
    x = x.bitwise_xor_((x >> 13) & 0x7FFFF).mul_(0xC2B2AE35 - (1 << 32))
    x = x.bitwise_xor_((x >> 16) & 0xFFFF).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
    return x.float() / 2**24


def _interpolation(num_bands: int, sample_rate_hz: int) -> Tensor:
    """Build the matrix that interpolates linearly from mel bands to the bins of a noise slice."""
    num_bins = NOISE_WINDOW // 2 + 1
    hertz = torch.arange(num_bins) * (sample_rate_hz / NOISE_WINDOW)
    mel = torch.log1p(hertz / 700.0)
    place = mel / mel[-1] * (num_bands - 1)
    distance = (place[None] - torch.arange(num_bands)[:, None]).abs()
    return (1.0 - distance).clamp(min=0.0)
