"""A DAC small enough to build in every test, and real music where there is some."""

import os
from pathlib import Path

import pytest
import torch

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.dac import DacCodec

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
    """Build a codec of the tiny shape, always with the same random weights."""
    torch.manual_seed(0)
    model = build_model(TINY)
    for parameter in model.parameters():  # initial weights are too small to tell codes apart
        torch.nn.init.normal_(parameter, std=0.5)
    return DacCodec(model, TINY, name="tiny", weights_sha256="0" * 64, **options)


@pytest.fixture(scope="session")
def real_music() -> Path:
    """Folder of real recordings."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "music"
    folder = Path(os.environ.get("MELODAC_TEST_MUSIC", beside))
    if not folder.is_dir():
        pytest.skip(f"no real music: {folder} is absent (set MELODAC_TEST_MUSIC)")
    return folder
