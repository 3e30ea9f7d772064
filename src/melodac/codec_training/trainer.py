"""`CodecTrainer`: training of a spectral codec, update by update.

First the quantizer is fitted to music. Afterwards codes are fixed and only the decoder trains, so
better weights never change a token. EMA weights are the ones exported.
"""

import logging
import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from melodac.codec.frame_decoder import (
    NUM_BINS,
    WINDOW,
    Spectra,
    sound_noise,
    sound_tonal,
    turn_phases,
)
from melodac.codec.front_end import HALO
from melodac.codec.spectral_codec import SpectralArchitecture, SpectralModel
from melodac.codec_training.adversary import Adversary
from melodac.codec_training.clips import CropSource
from melodac.codec_training.config import CodecTrainingConfig
from melodac.codec_training.fit import fit_outline, fit_quantizer
from melodac.codec_training.spectral import spectral_terms
from melodac.codec_training.state import TrainingState

_BETAS = (0.8, 0.99)  # source: DAC's 44.1 kHz configuration
_WARMUP_UPDATES = 200
_EDGE = WINDOW // 2
"""Samples at the ends of a crop excluded from the loss: too few frames overlap there."""
_log = logging.getLogger(__name__)


class CodecTrainer:
    """Trainer of one codec."""

    def __init__(
        self, config: CodecTrainingConfig, architecture: SpectralArchitecture, crops: CropSource
    ) -> None:
        torch.default_generator.manual_seed(config.seed)
        self.config, self.architecture, self.crops = config, architecture, crops
        self._hop = architecture.front_end.hop
        model = SpectralModel(architecture)
        begins_at = config.adversarial.begins_at
        self.state = TrainingState(
            model=model,
            averages=[weight.detach().clone() for weight in model.decoder.parameters()],
            optimizer=torch.optim.AdamW(model.decoder.parameters(), betas=_BETAS),
            generator=torch.Generator().manual_seed(config.seed),
            adversary=None if begins_at is None else Adversary(config.adversarial, config.seed),
        )

    @torch.no_grad()
    def fit(self) -> None:
        """Fit the quantizer, then the decoder's linear estimate to the quantized points."""
        features: list[Tensor] = []
        magnitudes: list[Tensor] = []
        for _ in range(self.config.fit_batches):
            audio = self.crops.draw(self.state.generator)
            features.append(self._features(audio).flatten(0, 1).float())
            magnitudes.append(self._log_magnitudes(audio).flatten(0, 1).half())
        model, every = self.state.model, torch.cat(features)
        fit_quantizer(model.quantizer, every, self.state.generator, self.config.fit_rounds)
        points = model.quantizer.project(every)
        kept = model.quantizer.decode(model.quantizer.encode(points)[None])[0]
        left = float((kept - points).square().mean() / points.var(0).mean())
        _log.info("%d frames, %.1f %% of their variance is left over", len(points), 100 * left)
        fit_outline(model.decoder, kept, torch.cat(magnitudes))
        for average, weight in zip(self.state.averages, model.decoder.parameters(), strict=True):
            average.copy_(weight)
        self.state.is_fitted = True

    def update(self) -> dict[str, float]:
        """Run one update; return the weighted terms of the loss and the gradient norm."""
        state, config = self.state, self.config
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, state.update)
        audio = self.crops.draw(state.generator)
        spectra = state.model.decoder(self._points(audio))
        terms = {"direct": self._direct(spectra, audio)}
        judged: dict[str, float] = {}
        if state.update >= config.silent_updates:
            target = audio[:, HALO * self._hop + _EDGE : -HALO * self._hop - _EDGE]
            output = self._sound(spectra)[:, _EDGE:-_EDGE]
            rate_hz = self.architecture.front_end.sample_rate
            distances = spectral_terms(output, target, rate_hz)
            terms["mel"] = config.weights.mel * distances.mel
            terms["log_magnitude"] = config.weights.log_magnitude * distances.log_magnitude
            judged = self._judge(output[:, None], target[:, None], terms)
        state.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        norm = nn.utils.clip_grad_norm_(
            state.model.decoder.parameters(), config.gradient_clip, error_if_nonfinite=True
        )
        state.optimizer.step()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        state.update += 1
        self._average()
        values = {name: term.item() for name, term in terms.items()}
        return values | judged | {"gradient_norm": norm.item()}

    @torch.no_grad()
    def _points(self, audio: Float[Tensor, "B N"]) -> Float[Tensor, "B T _"]:
        """Quantize crops, some of them with fewer codebooks (quantizer dropout)."""
        quantizer, generator = self.state.model.quantizer, self.state.generator
        num_codebooks = len(quantizer.vectors)
        points = quantizer.project(self._features(audio))
        codes = quantizer.encode(points.flatten(0, 1)).reshape(-1, *points.shape[:2])
        kept: list[Tensor] = []
        for item in codes.unbind(1):
            depth = num_codebooks
            if torch.rand((), generator=generator) < self.config.quantizer_dropout:
                depth = int(torch.randint(1, num_codebooks + 1, (), generator=generator))
            kept.append(quantizer.decode(item[None, :depth])[0])
        return torch.stack(kept)

    def _features(self, audio: Float[Tensor, "B N"]) -> Float[Tensor, "B T _"]:
        return self.state.model.front_end(audio)[:, HALO:-HALO]

    def _log_magnitudes(self, audio: Float[Tensor, "B N"]) -> Float[Tensor, "B T F"]:
        """Return the log magnitudes of the music, the targets of the decoder's tonal frames."""
        start = HALO * self._hop + self._hop // 2 - WINDOW // 2
        frames = audio[:, start:].unfold(-1, WINDOW, self._hop)[:, : self.config.crop_frames]
        hann = torch.hann_window(WINDOW)
        # untyped in torch
        spectrum = cast("Tensor", torch.fft.rfft(frames * hann))  # pyright: ignore[reportUnknownMemberType]
        return (spectrum.abs() / (WINDOW / 4) + 1e-7).log()

    def _direct(self, spectra: Spectra, audio: Float[Tensor, "B N"]) -> Float[Tensor, ""]:
        is_silent = self.state.update < self.config.silent_updates
        weight = 1.0 if is_silent else self.config.weights.direct
        return weight * (spectra.tonal - self._log_magnitudes(audio)).abs().mean()

    def _sound(self, spectra: Spectra) -> Float[Tensor, "B N"]:
        """Synthesise crops, each as if it were somewhere in a recording."""
        generator = self.state.generator
        before = torch.rand(len(spectra.tonal), NUM_BINS, generator=generator)
        first = int(torch.randint(1 << 20, (), generator=generator))
        _, phases = turn_phases(spectra.tonal, before, first)
        return sound_tonal(spectra, phases) + sound_noise(spectra, first)

    def _judge(
        self,
        output: Float[Tensor, "B 1 N"],
        audio: Float[Tensor, "B 1 N"],
        terms: dict[str, Tensor],
    ) -> dict[str, float]:
        """Update the discriminators and, after their lead, add their terms to the codec's loss."""
        adversary, weights = self.state.adversary, self.config.weights
        begins_at = self.config.adversarial.begins_at
        if adversary is None or begins_at is None or self.state.update < begins_at:
            return {}
        judges = adversary.draw(self.state.generator)
        loss, of_real = adversary.learn(audio, output, judges)
        if not adversary.is_leading:
            judged = adversary.terms(output, of_real, judges)
            terms["adversarial"] = weights.adversarial * judged.adversarial
            terms["feature"] = weights.feature * judged.feature
        return {"discriminator": loss}

    @torch.no_grad()
    def _average(self) -> None:
        # a smaller decay in the first updates, so that the average soon forgets the initial weights
        decay = min(self.config.ema_decay, (1 + self.state.update) / (10 + self.state.update))
        weights = self.state.model.decoder.parameters()
        for average, weight in zip(self.state.averages, weights, strict=True):
            average.lerp_(weight, 1 - decay)


def learning_rate(config: CodecTrainingConfig, update: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to a constant final rate."""
    done = min(update / config.updates, 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    share = config.final_rate_share + (1 - config.final_rate_share) * cosine
    return config.learning_rate * share * min((update + 1) / _WARMUP_UPDATES, 1.0)
