"""Discriminators of DAC at any width: on folded waveforms and on bands of complex spectra.

`dac.model.discriminator` fixes its channels for a GPU; these take a share of them. At a width of 1
they are DAC's own: names, shapes and outputs, which a test compares.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from melodac.codec_training.config import DiscriminatorShape

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bands of the spectrum with their own layers, as shares. Source: DAC's discriminator."""
_SLOPE = 0.1
_QUIETEST_PEAK = 0.02  # near silence is not scaled up to full scale: its gradients would dominate
_PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
_BAND_CHANNELS = 32

Maps = list[Tensor]
"""Feature maps of one discriminator, its output last."""


class Discriminator(nn.Module):
    """Period and spectrum discriminators."""

    def __init__(self, shape: DiscriminatorShape) -> None:
        super().__init__()
        folded = [PeriodDiscriminator(period, shape.width) for period in shape.periods]
        banded = [SpectrumDiscriminator(window, shape.width) for window in shape.windows]
        self.discriminators = nn.ModuleList([*folded, *banded])

    def forward(self, audio: Float[Tensor, "B 1 N"], judges: Sequence[int]) -> list[Maps]:
        """Run some discriminators on audio without its mean and scaled to one peak, as DAC does."""
        audio = audio - audio.mean(dim=-1, keepdim=True)
        peak = audio.abs().amax(dim=-1, keepdim=True)
        audio = 0.8 * audio / peak.clamp(min=_QUIETEST_PEAK)
        return [self.discriminators[index](audio) for index in judges]


class PeriodDiscriminator(nn.Module):
    """Discriminator that convolves over samples one period apart."""

    def __init__(self, period: int, width: float) -> None:
        super().__init__()
        self.period = period
        sizes = [1, *(_scaled(size, width) for size in _PERIOD_CHANNELS)]
        last = len(sizes) - 2
        self.convs = nn.ModuleList(
            _layer(sizes[index], sizes[index + 1], (5, 1), (1 if index == last else 3, 1))
            for index in range(len(sizes) - 1)
        )
        self.conv_post = _convolution(sizes[-1], 1, (3, 1), (1, 1))

    def forward(self, audio: Float[Tensor, "B 1 N"]) -> Maps:
        """Return the feature maps of audio; the folded waveform is padded by reflection."""
        spare = self.period - audio.shape[-1] % self.period
        padded = functional.pad(audio, (0, spare), mode="reflect")
        x = padded.reshape(*audio.shape[:2], -1, self.period)
        maps: Maps = []
        for layer in self.convs:
            x = layer(x)
            maps.append(x)
        return [*maps, self.conv_post(x)]


class SpectrumDiscriminator(nn.Module):
    """Discriminator on the complex spectrum: convolutions for each band, then one over all."""

    def __init__(self, window: int, width: float) -> None:
        super().__init__()
        self.window = window
        bins = window // 2 + 1
        self.bands = [(int(low * bins), int(high * bins)) for low, high in BANDS]
        channels = _scaled(_BAND_CHANNELS, width)
        self.band_convs = nn.ModuleList(_band_layers(channels) for _ in self.bands)
        self.conv_post = _convolution(channels, 1, (3, 3), (1, 1))

    def forward(self, audio: Float[Tensor, "B 1 N"]) -> Maps:
        """Return the feature maps of audio."""
        spectrum = self._spectrum(audio)
        maps: Maps = []
        ends: list[Tensor] = []
        for (low, high), layers in zip(self.bands, self.band_convs, strict=True):
            x = spectrum[..., low:high]
            for layer in cast("nn.ModuleList", layers):
                x = layer(x)
                maps.append(x)
            ends.append(x)
        return [*maps, self.conv_post(torch.cat(ends, dim=-1))]

    def _spectrum(self, audio: Float[Tensor, "B 1 N"]) -> Float[Tensor, "B 2 _ _"]:
        """Return real and imaginary parts of as many frames as there are hops."""
        hop = self.window // 4
        end = math.ceil(audio.shape[-1] / hop) * hop - audio.shape[-1]
        pad = (self.window - hop) // 2
        x = functional.pad(audio, (pad, pad + end), mode="reflect")
        spectrum = torch.stft(
            x[:, 0],
            self.window,
            hop,
            window=_hann(self.window, audio.device),
            center=True,
            return_complex=True,
        )
        # drops the frames that lie in the padding, as the audiotools package does
        return torch.view_as_real(spectrum[..., 2:-2]).permute(0, 3, 2, 1)


def _band_layers(channels: int) -> nn.ModuleList:
    wide = [_layer(channels, channels, (3, 9), (1, 2)) for _ in range(3)]
    return nn.ModuleList([
        _layer(2, channels, (3, 9), (1, 1)),
        *wide,
        _layer(channels, channels, (3, 3), (1, 1)),
    ])


def _layer(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]
) -> nn.Module:
    return nn.Sequential(_convolution(inputs, outputs, kernel, stride), nn.LeakyReLU(_SLOPE))


def _convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int]
) -> nn.Module:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding=padding))


def _scaled(channels: int, width: float) -> int:
    return max(round(channels * width), 2)


@cache
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)
