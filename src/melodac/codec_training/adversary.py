"""Discriminators of DAC at any width, which learn with the codec, and what they make it pay.

`dac.model.discriminator` fixes its channels for a GPU; these take a share of them. At a width of 1
they are DAC's own: names, shapes and outputs, which a test compares. The loss is least squares with
feature matching, as in DAC. On a CPU judging costs more than decoding, so each update may be judged
by a few discriminators drawn at random: terms then stand for all of them on average.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from melodac.codec_training.config import AdversarialConfig, DiscriminatorShape

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bands of the spectrum with their own layers, as shares. Source: DAC's discriminator."""
_SLOPE = 0.1
_QUIETEST_PEAK = 0.02  # near silence is not blown up to full scale: its gradients would rule
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
        # frames that see the padding only are dropped, as the audiotools package does
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


@dataclass(frozen=True)
class AdversarialTerms:
    """Unweighted adversarial terms of the codec's loss; sums over discriminators, as in DAC."""

    adversarial: Float[Tensor, ""]
    """Squared distance of the outputs on the reconstruction from 1, the label of real audio."""
    feature: Float[Tensor, ""]
    """Absolute difference of the feature maps, a mean for each map, summed."""


class Adversary:
    """Discriminators and their optimizer, initialised deterministically from a seed."""

    def __init__(self, config: AdversarialConfig, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]  untyped
            torch.default_generator.manual_seed(seed)
            self.discriminator = Discriminator(config.shape)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.8, 0.99)
        )
        self.updates = 0
        """Updates of the discriminators so far."""

    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw the indices of the discriminators of one update."""
        total = len(self.discriminator.discriminators)
        drawn = min(self.config.drawn or total, total)
        if drawn == total:
            return list(range(total))
        return sorted(int(index) for index in torch.randperm(total, generator=generator)[:drawn])

    def learn(
        self, real: Float[Tensor, "B 1 N"], fake: Float[Tensor, "B 1 N"], judges: list[int]
    ) -> tuple[float, list[Maps]]:
        """Update the discriminators; return the loss and their maps of `real`, without gradient."""
        self.discriminator.requires_grad_(requires_grad=True)
        of_real = self.discriminator(real, judges)
        of_fake = self.discriminator(fake.detach(), judges)
        loss = real.new_zeros(())
        for ours, theirs in zip(of_fake, of_real, strict=True):
            # least squares: the target is 0 for a reconstruction and 1 for real audio
            loss = loss + ours[-1].square().mean() + (1 - theirs[-1]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        nn.utils.clip_grad_norm_(
            self.discriminator.parameters(), self.config.gradient_clip, error_if_nonfinite=True
        )
        for group in self.optimizer.param_groups:
            # set at every update, since a restored optimizer state brings its own learning rate
            group["lr"] = self.config.learning_rate
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        self.updates += 1
        return loss.item(), [[one.detach() for one in maps] for maps in of_real]

    def terms(
        self, fake: Float[Tensor, "B 1 N"], of_real: list[Maps], judges: list[int]
    ) -> AdversarialTerms:
        """Return the terms of the codec's loss; no gradient reaches the discriminators' weights."""
        self.discriminator.requires_grad_(requires_grad=False)
        adversarial, feature = fake.new_zeros(()), fake.new_zeros(())
        for ours, theirs in zip(self.discriminator(fake, judges), of_real, strict=True):
            adversarial = adversarial + (1 - ours[-1]).square().mean()
            for one, other in zip(ours[:-1], theirs[:-1], strict=True):
                feature = feature + (one - other).abs().mean()
        share = len(judges) / len(self.discriminator.discriminators)
        return AdversarialTerms(adversarial / share, feature / share)

    @property
    def is_leading(self) -> bool:
        """True while the discriminators train alone, before the codec's loss includes them."""
        return self.updates <= self.config.lead_updates

    def content(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain tensors and numbers."""
        return {
            "shape": self.config.shape.model_dump_json(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def fits(self, content: dict[str, Any]) -> bool:
        """Check if saved discriminators have the shape of these."""
        return content["shape"] == self.config.shape.model_dump_json()

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the state that `content` returned."""
        self.discriminator.load_state_dict(content["discriminator"], strict=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.updates = content["updates"]
