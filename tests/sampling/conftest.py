"""A language model small enough to generate with in milliseconds, and opinionated enough to vary."""

import pytest
import torch

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def singer():
    config = LanguageModelConfig(
        num_codebooks=3,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ff_dim=48,
        dropout=0.1,
        rope_base=10_000.0,
    )
    torch.manual_seed(0)
    model = LanguageModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # an untrained model is a uniform guess whatever it has read
    return model
