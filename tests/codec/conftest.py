"""Codecs small enough to build and train in every test: a DAC, and a spectral one with its music."""

import copy
import math
from functools import cache

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac import DacCodec
from melodac.codec.frame_decoder import FrameDecoderShape
from melodac.codec.front_end import HALO, FrontEndShape
from melodac.codec.spectral_codec import SpectralArchitecture, SpectralCodec, SpectralModel
from melodac.codec_training.clips import CropSource, load_clips
from melodac.codec_training.config import CodecTrainingConfig
from melodac.codec_training.state import export_state, save_state
from melodac.codec_training.trainer import CodecTrainer, fit_quantizer
from tests.reference.official_codec import build_spread

RATE_HZ = 44_100

TINY = DacArchitecture(
    encoder_dim=4,
    encoder_rates=(2, 4),
    latent_dim=12,
    decoder_dim=16,
    decoder_rates=(4, 2),
    n_codebooks=3,
    codebook_size=32,
    codebook_dim=4,
    sample_rate=RATE_HZ,
)

SPECTRAL = SpectralArchitecture(
    front_end=FrontEndShape(
        num_bands=24, num_slice_bands=4, num_directions=16, num_codebooks=3, codebook_size=32
    ),
    decoder=FrameDecoderShape(dim=16, num_blocks=1, widening=2, num_noise_bands=8),
)


@pytest.fixture
def tiny_architecture() -> DacArchitecture:
    return TINY


@pytest.fixture
def make_tiny():
    return build_tiny


def build_tiny(**options: int) -> DacCodec:
    """Build a codec of the tiny shape, always with the same weights; noise spreads its codes."""
    model = copy.deepcopy(build_tiny_model())
    return DacCodec(model, TINY, name="tiny", weights_sha256="0" * 64, **options)


@cache
def build_tiny_model() -> nn.Module:
    """Build its model once, weight norm folded already."""
    return build_spread(
        TINY, 0.3 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    )


def compose(seed: int, num_samples: int) -> torch.Tensor:
    """Play struck chords of random partials over a little noise, one channel."""
    generator = torch.Generator().manual_seed(seed)
    time_s = torch.arange(num_samples, dtype=torch.float64) / RATE_HZ
    audio = 0.01 * torch.randn(num_samples, generator=generator).double()
    for _ in range(2 + num_samples // 8000):
        onset_s, strength = torch.rand(2, generator=generator).tolist()
        hz = 80 * 2 ** (6 * float(torch.rand((), generator=generator)))
        passed_s = time_s - onset_s * num_samples / RATE_HZ
        envelope = strength * torch.exp(-4 * passed_s) * (passed_s >= 0)
        for partial in range(1, 6):
            audio += 0.2 / partial * envelope * torch.sin(2 * math.pi * hz * partial * passed_s)
    return audio.float().clamp(-1, 1)


@pytest.fixture
def spectral_architecture() -> SpectralArchitecture:
    return SPECTRAL


@pytest.fixture
def spectral() -> SpectralCodec:
    return build_spectral()


def build_spectral() -> SpectralCodec:
    """Build a spectral codec of the tiny shape, always with the same weights."""
    model = copy.deepcopy(build_spectral_model())
    return SpectralCodec(model, SPECTRAL, name="tiny", weights_sha256="0" * 64)


@cache
def build_spectral_model() -> SpectralModel:
    """Fit its quantizer once; its decoder is a random one, loud enough to be compared."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SpectralModel(SPECTRAL)
        with torch.no_grad():
            model.decoder.outline.bias.fill_(-4.0)
            model.decoder.noise.bias.fill_(-4.0)
            model.decoder.tonal.weight.normal_()
    features = model.front_end(torch.stack([compose(seed, 64_000) for seed in range(6)]))
    fit_quantizer(model.quantizer, features.flatten(0, 1), torch.Generator().manual_seed(0), 4)
    return model


TRAINING = CodecTrainingConfig(
    fit_batches=12,
    fit_rounds=4,
    batch_size=2,
    crop_frames=16,
    updates=200,
    silent_updates=2,
    learning_rate=2e-3,
)


@pytest.fixture
def training_config() -> CodecTrainingConfig:
    return TRAINING


@pytest.fixture
def music(tmp_path):
    """A folder of short files in groups of two."""
    folder = tmp_path / "music"
    folder.mkdir()
    rows = ["file_name,group"]
    for index in range(40):
        name = f"{index:02}.wav"
        soundfile.write(folder / name, compose(index, 13_000).numpy().astype(np.float64), RATE_HZ)
        rows.append(f"{name},group {index // 2}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def export(tmp_path):
    def write(trainer: CodecTrainer, folder):
        save_state(tmp_path / "to_export.pt", trainer.state, trainer.architecture)
        return export_state(tmp_path / "to_export.pt", folder, name="tiny", sources="chords")

    return write


@pytest.fixture
def make_trainer(music):
    clips = load_clips(music, RATE_HZ)

    def make(**changes) -> CodecTrainer:
        config = TRAINING.model_copy(update=changes)
        length = (config.crop_frames + 2 * HALO) * SPECTRAL.front_end.hop
        return CodecTrainer(config, SPECTRAL, CropSource([clips], config, length))

    return make
