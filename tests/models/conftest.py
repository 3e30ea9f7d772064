"""A language model small enough to look at."""

import jaxtyping
import pytest
import torch

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel


@pytest.fixture
def tiny_config():
    return LanguageModelConfig(
        num_codebooks=3,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ff_dim=48,
        dropout=0.0,
        rope_base=10_000.0,
    )


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return LanguageModel(tiny_config)


@pytest.fixture
def reading_config(tiny_config):
    """The same model with a text beside the codes."""
    return tiny_config.model_copy(update={"text_bytes": 80, "text_layers": 2, "memory_dim": 16})


@pytest.fixture
def reading_model(reading_config):
    torch.manual_seed(0)
    return LanguageModel(reading_config).eval()


@pytest.fixture
def no_shape_checks():
    """Dynamo cannot trace the checkers, so tests that compile switch them off."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
