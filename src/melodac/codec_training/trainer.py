"""Training of a spectral codec: the quantizer's fit, exact updates, and the loop that resumes.

First the quantizer is fitted to music (principal directions of the features, one k-means a codebook
on what the ones before left over, and the decoder's start by least squares). From then on codes
stay and only the decoder learns, so that better weights never change a token. The weights that
count are a moving average.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from tqdm import tqdm

from melodac.codec.frame_decoder import (
    NUM_BINS,
    WINDOW,
    FrameDecoder,
    Spectra,
    sound_noise,
    sound_tonal,
    turn_phases,
)
from melodac.codec.front_end import HALO, ResidualQuantizer
from melodac.codec.spectral_codec import SpectralArchitecture, SpectralModel
from melodac.codec_training.adversary import Adversary
from melodac.codec_training.clips import CropSource
from melodac.codec_training.config import CodecTrainingConfig
from melodac.codec_training.spectral import spectral_terms
from melodac.codec_training.state import TrainingState, load_state, save_state

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


MIN_SHARE = 0.1
"""Share of the mean cluster size below which a cluster moves to the worst described points."""

_PIECE = 1024


@torch.no_grad()
def fit_quantizer(
    quantizer: ResidualQuantizer,
    features: Float[Tensor, "T _"],
    generator: torch.Generator,
    rounds: int,
) -> None:
    """Fill `quantizer` from features of frames, drawn as they occur in music."""
    mean = features.double().mean(0)
    centred = features.double() - mean
    covariance = centred.T @ centred / len(centred)
    # untyped in torch
    _, vectors = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(covariance))  # pyright: ignore[reportUnknownMemberType]
    directions = vectors.flip(1)
    quantizer.mean.copy_(mean)
    quantizer.directions.copy_(directions[:, : quantizer.directions.shape[0]].T)
    residual = quantizer.project(features).float()
    for vectors in tqdm(quantizer.vectors, desc="codebooks", unit="codebook", leave=False):
        vectors.copy_(cluster(residual, len(vectors), generator, rounds))
        residual = residual - vectors[_nearest(residual, vectors)]


@torch.no_grad()
def fit_outline(
    decoder: FrameDecoder, points: Float[Tensor, "T _"], log_magnitudes: Float[Tensor, "T F"]
) -> None:
    """Set the decoder's linear estimate by ridge regression."""
    inputs = torch.cat([points.double(), torch.ones(len(points), 1, dtype=torch.float64)], 1)
    gram = inputs.T @ inputs
    gram += torch.eye(len(gram), dtype=torch.float64) * (1e-4 * gram.diagonal().mean())
    targets = inputs.T @ log_magnitudes.double()
    solution = cast("Tensor", torch.linalg.solve(gram, targets))  # pyright: ignore[reportUnknownMemberType]  untyped
    decoder.outline.weight.copy_(solution[:-1].T)
    decoder.outline.bias.copy_(solution[-1])


def cluster(
    points: Float[Tensor, "T _"], num_clusters: int, generator: torch.Generator, rounds: int
) -> Float[Tensor, "U _"]:
    """Run k-means from random points; nearly empty clusters move to badly described points."""
    first = torch.randperm(len(points), generator=generator)[:num_clusters]
    centres = points[first].clone()
    for turn in range(rounds):
        chosen = _nearest(points, centres)
        counts = torch.bincount(chosen, minlength=num_clusters).float()
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        small = (counts < MIN_SHARE * len(points) / num_clusters).nonzero()[:, 0]
        if len(small) and turn < rounds - 3:  # the last rounds only settle
            # above 0, as where every point is described fully there is no worst one to draw
            errors = (points - centres[chosen]).square().sum(1).clamp(min=1e-12)
            worst = torch.multinomial(errors, len(small), generator=generator)
            centres[small] = points[worst]
    return centres


def _nearest(points: Float[Tensor, "T _"], vectors: Float[Tensor, "U _"]) -> Int64[Tensor, " T"]:
    """Find the nearest vectors in float32, in pieces whose scores stay in the CPU cache."""
    half = vectors.square().sum(1) / -2
    pieces = range(0, len(points), _PIECE)
    return torch.cat([
        torch.addmm(half, points[start : start + _PIECE], vectors.T).argmax(1) for start in pieces
    ])


STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
_SAVE_EVERY_S = 120.0
_LOG_EVERY = 50


def _never() -> bool:
    return False


def train_codec(
    trainer: CodecTrainer, folder: Path, minutes: float, should_stop: Callable[[], bool] = _never
) -> None:
    """Train for a budget of wall-clock minutes, resuming from `folder` and saving there.

    Args:
        trainer: The codec.
        folder: Folder of the state and the log.
        minutes: Budget of this run.
        should_stop: Called before each update; True ends the run. The state is saved in any case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE_FILE
    if path.exists():
        load_state(path, trainer.state, trainer.architecture)
    if not trainer.state.is_fitted:
        trainer.fit()
        save_state(path, trainer.state, trainer.architecture)
    start = saved = last = time.monotonic()
    with (
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
        tqdm(initial=trainer.state.update, unit="update", mininterval=5.0) as bar,
    ):
        while time.monotonic() - start < minutes * 60 and not should_stop():
            terms = trainer.update()
            now = time.monotonic()
            trainer.state.seconds += now - last
            last = now
            bar.update()
            if trainer.state.update % _LOG_EVERY == 0:
                bar.set_postfix_str(f"loss {sum(terms.values()) - terms['gradient_norm']:.2f}")
                record = {"update": trainer.state.update, "seconds": trainer.state.seconds} | terms
                log.write(json.dumps(record) + "\n")
                log.flush()
            if now - saved > _SAVE_EVERY_S:
                save_state(path, trainer.state, trainer.architecture)
                saved = now
    save_state(path, trainer.state, trainer.architecture)
