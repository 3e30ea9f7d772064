"""`CodecTrainer`: one codec in training, one exact update at a time.

Phases: plain autoencoder, then codebooks fitted to its latents, then everything together, judged by
discriminators if wanted, then perhaps the decoder alone. The weights that count are a moving
average. `melodac.codec.training.loop` and `pipeline/codec.py` use it.
"""

import logging
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.dac_import import DacModel
from melodac.codec.training.adversary import Adversary
from melodac.codec.training.clips import CropSource
from melodac.codec.training.config import CodecTrainingConfig
from melodac.codec.training.quantizer import (
    Codebooks,
    Quantized,
    draw_depths,
    initialize_quantizer,
    quantize,
)
from melodac.codec.training.schedule import encoder_share, learning_rate
from melodac.codec.training.spectral import spectral_terms
from melodac.codec.training.state import TrainingState

_BETAS = (0.8, 0.99)  # source: DAC's 44.1 kHz configuration
_log = logging.getLogger(__name__)


class CodecTrainer:
    """One codec in training."""

    def __init__(
        self, config: CodecTrainingConfig, architecture: DacArchitecture, crops: CropSource
    ) -> None:
        torch.default_generator.manual_seed(config.seed)
        self.config, self.architecture, self.crops = config, architecture, crops
        model = self.model = build_model(architecture).train()
        self.parts = cast("DacModel", model)
        by_gradient = config.codebooks == "gradient"
        for stage in self.parts.quantizer.quantizers:
            stage.codebook.requires_grad_(requires_grad=by_gradient)  # else Codebooks moves them
        self.state = TrainingState(
            model=model,
            averages=[parameter.detach().clone() for parameter in model.parameters()],
            optimizer=torch.optim.AdamW(
                [
                    {"params": self._named("decoder.")},
                    {"params": self._named("encoder.", "quantizer.")},
                ],
                lr=config.learning_rate,
                betas=_BETAS,
            ),
            generator=torch.Generator().manual_seed(config.seed),
            codebooks=Codebooks(
                architecture.n_codebooks, architecture.codebook_size, architecture.codebook_dim
            ),
            adversary=None
            if config.adversarial.begins_at is None
            else Adversary(config.adversarial, config.seed),
        )
        self._encode = _compiled(self.parts.encoder, config.compiled)
        self._decode = _compiled(self.parts.decoder, config.compiled)

    def update(self) -> dict[str, float]:
        """Make one update and return its loss terms."""
        state, config = self.state, self.config
        if config.plain_updates and state.update == config.plain_updates:
            self._initialize_quantizer()
        self._fix_encoder()
        decoder, others = state.optimizer.param_groups
        decoder["lr"] = learning_rate(config, state.update)
        others["lr"] = decoder["lr"] * encoder_share(config, state.update)
        audio = self.crops.draw(state.generator)
        latents, terms = self._latents(audio)
        output = self._decode(latents)
        terms |= self._distances(output, audio)
        judged = self._judge(output, audio, terms)
        loss = torch.stack(list(terms.values())).sum()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        norm = nn.utils.clip_grad_norm_(
            state.model.parameters(), config.gradient_clip, error_if_nonfinite=True
        )
        state.optimizer.step()
        state.update += 1
        self._average()
        self._revive()
        values = {name: term.item() for name, term in terms.items()}
        return values | judged | {"gradient_norm": norm.item()}

    @property
    def is_encoder_fixed(self) -> bool:
        """Whether the next update leaves encoder and quantiser alone."""
        start = self.config.decoder_only_from
        return start is not None and self.state.update >= start

    def _named(self, *prefixes: str) -> list[nn.Parameter]:
        return [
            parameter
            for name, parameter in self.model.named_parameters()
            # codebooks are in no group while they are running means, as in older states
            if name.startswith(prefixes) and parameter.requires_grad
        ]

    def _latents(self, audio: Float[Tensor, "B 1 N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """What the decoder gets, and the terms of the loss that concern it."""
        state, config = self.state, self.config
        if self.is_encoder_fixed:
            with torch.no_grad():
                return self._quantize(self._encode(audio)).latents, {}
        latents = self._encode(audio)
        if state.update < config.plain_updates:
            noise = torch.randn(latents.shape, generator=state.generator)
            level = latents.detach().square().mean().sqrt()
            return latents + config.plain_noise * level * noise, {}
        quantized = self._quantize(latents)
        power = quantized.projected[0].square().mean()
        terms = {"commitment": config.weights.commitment * quantized.commitment_loss / power}
        if config.codebooks == "gradient":
            state.codebooks.count(quantized)
            terms["codebook"] = config.weights.codebook * quantized.codebook_loss / power
        else:
            state.codebooks.follow(self.parts.quantizer, quantized)
        return quantized.latents, terms

    def _quantize(self, latents: Float[Tensor, "B D T"]) -> Quantized:
        depths = draw_depths(
            len(latents),
            self.architecture.n_codebooks,
            self.config.quantizer_dropout,
            self.state.generator,
        )
        return quantize(self.parts.quantizer, latents, depths)

    def _distances(
        self, output: Float[Tensor, "B 1 N"], audio: Float[Tensor, "B 1 N"]
    ) -> dict[str, Tensor]:
        weights = self.config.weights
        spectral = spectral_terms(
            output[:, 0], audio[:, 0], self.architecture.sample_rate, self.config.phase_below_hz
        )
        return {
            "mel": weights.mel * spectral.mel,
            "log_magnitude": weights.log_magnitude * spectral.log_magnitude,
            "complex_spectrum": weights.complex_spectrum * spectral.complex_spectrum,
            "lines": weights.lines * spectral.lines,
            "waveform": weights.waveform * (output - audio).abs().mean(),
        }

    def _judge(
        self,
        output: Float[Tensor, "B 1 N"],
        audio: Float[Tensor, "B 1 N"],
        terms: dict[str, Tensor],
    ) -> dict[str, float]:
        """Let the discriminators learn and, once they have, add to `terms` what they demand."""
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
    def _initialize_quantizer(self) -> None:
        latents = [
            self._encode(self.crops.draw(self.state.generator)).transpose(1, 2).flatten(0, 1)
            for _ in range(self.config.initial_batches)
        ]
        initialize_quantizer(self.parts.quantizer, torch.cat(latents), self.state.generator)
        self.state.codebooks.start(self.parts.quantizer)
        for average, parameter in self._pairs():
            average.copy_(parameter)

    @torch.no_grad()
    def _fix_encoder(self) -> None:
        """Put all weights at their averages once, so that codes are those of the export."""
        if not self.is_encoder_fixed:
            self.state.is_encoder_fixed = False
        elif not self.state.is_encoder_fixed:
            for average, parameter in self._pairs():
                parameter.copy_(average)
            self.state.codebooks.start(self.parts.quantizer)
            self.state.is_encoder_fixed = True
            _log.info("update %d: only the decoder learns from here on", self.state.update)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.state.update) / (10 + self.state.update))
        for average, parameter in self._pairs():
            average.lerp_(parameter, 1 - decay)

    def _pairs(self) -> list[tuple[Tensor, nn.Parameter]]:
        return list(zip(self.state.averages, self.state.model.parameters(), strict=True))

    def _revive(self) -> None:
        update, config = self.state.update, self.config
        since = update - config.plain_updates
        if self.state.is_encoder_fixed or since <= 0 or since % config.revive_every:
            return
        if config.revive_until is not None and update > config.revive_until:
            return
        books = [stage.codebook.weight for stage in self.parts.quantizer.quantizers]
        by_identity = {id(parameter): average for average, parameter in self._pairs()}
        averages = [by_identity[id(book)] for book in books]
        revived = self.state.codebooks.revive(self.parts.quantizer, averages, self.state.generator)
        _log.info("update %d: revived %d codes", update, revived)


def _compiled(network: nn.Module, wanted: bool) -> Callable[[Tensor], Tensor]:
    if not wanted:
        return network
    compiled: object = torch.compile(network)  # pyright: ignore[reportUnknownMemberType]  untyped
    return cast("Callable[[Tensor], Tensor]", compiled)
