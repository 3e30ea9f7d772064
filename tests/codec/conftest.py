"""A DAC small enough to build and train in every test."""

import copy
from functools import cache

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac import DacCodec
from melodac.codec.training.clips import CropSource, load_clips
from melodac.codec.training.config import CodecTrainingConfig
from melodac.codec.training.export import export_codec
from melodac.codec.training.state import read_saved_codec, save_state
from melodac.codec.training.trainer import CodecTrainer
from tests.reference.official_codec import build_spread

TINY = DacArchitecture(
    encoder_dim=4,
    encoder_rates=(2, 4),
    latent_dim=12,
    decoder_dim=16,
    decoder_rates=(4, 2),
    n_codebooks=3,
    codebook_size=32,
    codebook_dim=4,
    sample_rate=44_100,
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


TRAINING = CodecTrainingConfig(
    batch_size=2,
    crop=4096,
    plain_updates=3,
    settle_updates=1,
    initial_batches=4,
    revive_every=2,
    warmup_updates=2,
    compiled=False,
    weights={"complex_spectrum": 0.5},
)


@pytest.fixture
def training_config() -> CodecTrainingConfig:
    return TRAINING


@pytest.fixture
def music(tmp_path):
    """A folder of short files in groups of two."""
    folder = tmp_path / "music"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = ["file_name,group"]
    for index in range(40):
        name = f"{index:02}.wav"
        soundfile.write(folder / name, 0.1 * generator.standard_normal(6000), 44_100)
        rows.append(f"{name},group {index // 2}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture
def export(tmp_path, tiny_architecture):
    def write(trainer, folder):
        save_state(tmp_path / "to_export.pt", trainer.state, tiny_architecture)
        saved = read_saved_codec(tmp_path / "to_export.pt")
        return export_codec(saved, folder, name="tiny", sources="noise")

    return write


@pytest.fixture
def make_trainer(music, tiny_architecture):
    def make(**changes) -> CodecTrainer:
        config = TRAINING.model_copy(update=changes)
        clips = load_clips(music, 44_100)
        return CodecTrainer(config, tiny_architecture, CropSource([clips], config))

    return make
