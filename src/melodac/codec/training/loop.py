"""The training loop of the bundled codec: a time budget, exact updates, resumable at any moment.

Phases: plain autoencoder, then codebooks fitted to its latents, then everything together. The
exported weights are a moving average. `pipeline/codec.py` calls `train_codec`.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.dac_import import DacModel
from melodac.codec.training.clips import CropSource
from melodac.codec.training.config import CodecTrainingConfig
from melodac.codec.training.quantizer import (
    Codebooks,
    draw_depths,
    initialize_quantizer,
    quantize,
)
from melodac.codec.training.spectral import spectral_terms
from melodac.codec.training.state import TrainingState, load_state, save_state

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
_SAVE_EVERY_S = 120.0
_LOG_EVERY = 50
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
        for stage in self.parts.quantizer.quantizers:
            stage.codebook.requires_grad_(requires_grad=False)  # moved by Codebooks
        self.state = TrainingState(
            model=model,
            averages=[parameter.detach().clone() for parameter in model.parameters()],
            optimizer=torch.optim.AdamW(
                [
                    {"params": self._learned("decoder.")},
                    {"params": self._learned("encoder.", "quantizer.")},
                ],
                lr=config.learning_rate,
                betas=(0.8, 0.99),
            ),
            generator=torch.Generator().manual_seed(config.seed),
            codebooks=Codebooks(
                architecture.n_codebooks, architecture.codebook_size, architecture.codebook_dim
            ),
        )
        self._encode = _compiled(self.parts.encoder, config.compiled)
        self._decode = _compiled(self.parts.decoder, config.compiled)

    def update(self) -> dict[str, float]:
        """Make one update and return its loss terms."""
        state, config = self.state, self.config
        if state.update == config.plain_updates:
            self._initialize_quantizer()
        decoder, others = state.optimizer.param_groups
        decoder["lr"] = learning_rate(config, state.update)
        others["lr"] = decoder["lr"] * encoder_share(config, state.update)
        terms = self._losses(self.crops.draw(state.generator))
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
        return {name: term.item() for name, term in terms.items()} | {"gradient_norm": norm.item()}

    def _learned(self, *prefixes: str) -> list[nn.Parameter]:
        return [
            parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(prefixes) and parameter.requires_grad
        ]

    def _losses(self, audio: Float[Tensor, "B 1 N"]) -> dict[str, Tensor]:
        """Return the weighted terms of the loss."""
        weights = self.config.weights
        latents = self._encode(audio)
        terms: dict[str, Tensor] = {}
        if self.state.update >= self.config.plain_updates:
            depths = draw_depths(
                len(audio),
                self.architecture.n_codebooks,
                self.config.quantizer_dropout,
                self.state.generator,
            )
            quantized = quantize(self.parts.quantizer, latents, depths)
            self.state.codebooks.follow(self.parts.quantizer, quantized)
            latents = quantized.latents
            scale = quantized.projected[0].square().mean()
            terms["commitment"] = weights.commitment * quantized.commitment_loss / scale
        else:
            noise = torch.randn(latents.shape, generator=self.state.generator)
            level = latents.detach().square().mean().sqrt()
            latents = latents + self.config.plain_noise * level * noise
        output = self._decode(latents)
        rate_hz = self.architecture.sample_rate
        spectral = spectral_terms(output[:, 0], audio[:, 0], rate_hz)
        terms["mel"] = weights.mel * spectral.mel
        terms["log_magnitude"] = weights.log_magnitude * spectral.log_magnitude
        terms["complex_spectrum"] = weights.complex_spectrum * spectral.complex_spectrum
        terms["waveform"] = weights.waveform * (output - audio).abs().mean()
        return terms

    @torch.no_grad()
    def _initialize_quantizer(self) -> None:
        latents = [
            self._encode(self.crops.draw(self.state.generator)).transpose(1, 2).flatten(0, 1)
            for _ in range(self.config.initial_batches)
        ]
        initialize_quantizer(self.parts.quantizer, torch.cat(latents), self.state.generator)
        self.state.codebooks.start(self.parts.quantizer)
        for average, parameter in zip(
            self.state.averages, self.state.model.parameters(), strict=True
        ):
            average.copy_(parameter)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.state.update) / (10 + self.state.update))
        pairs = zip(self.state.averages, self.state.model.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter, 1 - decay)

    def _revive(self) -> None:
        update, config = self.state.update, self.config
        since = update - config.plain_updates
        if since <= 0 or since % config.revive_every:
            return
        if config.revive_until is not None and update > config.revive_until:
            return
        books = [stage.codebook.weight for stage in self.parts.quantizer.quantizers]
        by_identity = {
            id(parameter): average
            for parameter, average in zip(
                self.state.model.parameters(), self.state.averages, strict=True
            )
        }
        averages = [by_identity[id(book)] for book in books]
        revived = self.state.codebooks.revive(self.parts.quantizer, averages, self.state.generator)
        _log.info("update %d: revived %d codes", update, revived)


def _compiled(network: nn.Module, wanted: bool) -> Callable[[Tensor], Tensor]:
    if not wanted:
        return network
    compiled: object = torch.compile(network)  # pyright: ignore[reportUnknownMemberType]  untyped
    return cast("Callable[[Tensor], Tensor]", compiled)


def learning_rate(config: CodecTrainingConfig, update: int) -> float:
    """Linear warm-up, constant, then a cosine to the final rate if a decay is set."""
    peak, final = config.learning_rate, config.final_learning_rate
    if update < config.warmup_updates:
        return peak * (update + 1) / config.warmup_updates
    if config.decay_from is None or update < config.decay_from:
        return peak
    done = min((update - config.decay_from) / config.decay_updates, 1.0)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))


def encoder_share(config: CodecTrainingConfig, update: int) -> float:
    """Learning rate of all before the decoder, relative to the decoder's, at one update."""
    if update < config.plain_updates:
        return 1.0
    settled = update >= config.plain_updates + config.settle_updates
    return config.encoder_rate_share if settled else 0.0


def train_codec(trainer: CodecTrainer, folder: Path, minutes: float) -> None:
    """Train for a budget of wall-clock minutes, resuming from `folder` and saving there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE_FILE
    if path.exists():
        load_state(path, trainer.state, trainer.architecture)
    start = saved = last = time.monotonic()
    with (
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
        tqdm(initial=trainer.state.update, unit="update", mininterval=5.0) as bar,
    ):
        while time.monotonic() - start < minutes * 60:
            terms = trainer.update()
            now = time.monotonic()
            trainer.state.seconds += now - last
            last = now
            bar.update()
            if trainer.state.update % _LOG_EVERY == 0:
                bar.set_postfix_str(f"mel {terms['mel']:.2f}")
                record = {"update": trainer.state.update, "seconds": trainer.state.seconds} | terms
                log.write(json.dumps(record) + "\n")
                log.flush()
            if now - saved > _SAVE_EVERY_S:
                save_state(path, trainer.state, trainer.architecture)
                saved = now
    save_state(path, trainer.state, trainer.architecture)
