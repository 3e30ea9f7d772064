"""Laws of the measured likelihood."""

import math

import numpy as np
import pytest
import torch

from melodac.evaluation.likelihood import Bootstrap, measure_likelihood
from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(
        LanguageModelConfig(
            num_codebooks=2,
            dim=16,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            ff_dim=32,
            dropout=0.5,
            rope_base=10_000.0,
        )
    )


@pytest.fixture
def array():
    generator = np.random.default_rng(0)
    return array_of_tracks([
        (str(length), generator.integers(0, 1024, (length, 2)).astype(np.uint16))
        for length in (30, 5, 16, 21)
    ])


def measure(model, array, delay=(0, 1), **changes):
    settings = {
        "frames": 8,
        "windows_per_batch": 3,
        "frame_rate_hz": 100.0,
        "bootstrap": Bootstrap(200, 0),
    }
    return measure_likelihood(model, build_pattern(delay, 2), array, **(settings | changes))


@pytest.mark.parametrize("delay", [(0, 1), (0, 0), (3, 1), "flat"])
def test_every_frame_is_counted_once_under_every_pattern(model, array, delay):
    assert measure(model, array, delay).num_frames == 30 + 5 + 16 + 21


def test_an_untrained_model_is_near_the_uniform_guess(model, array):
    found = measure(model, array)
    assert found.nats.value == pytest.approx(math.log(1024), abs=0.1)
    assert found.bits_per_second.value == pytest.approx(2 * 10 * 100, rel=0.02)


def test_the_mean_is_that_of_the_codebooks(model, array):
    found = measure(model, array)
    codebooks = [estimate.value for estimate in found.nats_per_codebook]
    assert found.nats.value == pytest.approx(sum(codebooks) / 2)


def test_batch_size_changes_nothing(model, array):
    one, other = measure(model, array, windows_per_batch=1), measure(model, array)
    assert one.nats.value == pytest.approx(other.nats.value, rel=1e-6)


def test_the_interval_holds_the_mean_and_repeats(model, array):
    found = measure(model, array)
    for estimate in (found.nats, found.bits_per_second, *found.nats_per_codebook):
        assert estimate.low < estimate.value < estimate.high
    assert measure(model, array) == found


def test_a_single_track_has_no_interval(model, array):
    found = measure(model, array.select(["16"]))
    assert found.nats.low is None
    assert found.bits_per_second.high is None
    assert found.num_tracks == 1


def test_measuring_restores_the_mode_and_draws_nothing(model, array):
    model.train()
    before = torch.get_rng_state()
    measure(model, array)
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
