"""Stepping with the cache equals the full forward pass, and a full cache is an error."""

import pytest
import torch
from torch.testing import assert_close

from melodac.errors import CacheOverflowError, ModelError
from melodac.models.cache import KeyValueCache
from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.tokens.vocabulary import BOS

# float32 rounding of sums in another order; logits of these models reach about 0.5
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}


def step_through(model, sequence, cache, start):
    B, K, S = sequence.shape
    logits = []
    for step in range(start, S):
        previous = sequence[..., step - 1] if step else torch.full((B, K), BOS)
        logits.append(model.step(previous, cache))
    return torch.stack(logits, dim=2)


@torch.inference_mode()
def test_steps_from_nothing_equal_the_full_forward_pass(tiny_config, tiny_model):
    sequence = torch.randint(0, 1026, (3, 3, 20))
    cache = KeyValueCache(tiny_config, batch_size=3, capacity=20)
    assert_close(step_through(tiny_model, sequence, cache, 0), tiny_model(sequence), **TOLERANCE)


@pytest.mark.parametrize("known", [1, 2, 7, 19])
@torch.inference_mode()
def test_steps_after_a_prefill_equal_the_full_forward_pass(tiny_config, tiny_model, known):
    sequence = torch.randint(0, 1026, (2, 3, 20))
    cache = KeyValueCache(tiny_config, batch_size=2, capacity=20)
    tiny_model.prefill(sequence[..., :known], cache)
    assert cache.position == known
    assert_close(
        step_through(tiny_model, sequence, cache, known),
        tiny_model(sequence)[:, :, known:],
        **TOLERANCE,
    )


@torch.inference_mode()
def test_nano_steps_equal_its_full_forward_pass():
    torch.manual_seed(0)
    config = build_config("nano", num_codebooks=9, dropout=0.1)
    model = LanguageModel(config).eval()
    sequence = torch.randint(0, 1026, (2, 9, 40))
    cache = KeyValueCache(config, batch_size=2, capacity=40)
    model.prefill(sequence[..., :25], cache)
    stepped = step_through(model, sequence, cache, 25)
    assert_close(stepped, model(sequence)[:, :, 25:], **TOLERANCE)


@torch.inference_mode()
def test_a_full_cache_raises_and_stays_as_it_was(tiny_config, tiny_model):
    cache = KeyValueCache(tiny_config, batch_size=1, capacity=4)
    tiny_model.prefill(torch.randint(0, 1024, (1, 3, 4)), cache)
    message = r"holds 4 of 4 steps and cannot take 1 more: build it with a capacity of at least 5"
    with pytest.raises(CacheOverflowError, match=message):
        tiny_model.step(torch.zeros(1, 3, dtype=torch.long), cache)
    assert cache.position == 4


@torch.inference_mode()
def test_a_prefill_longer_than_the_cache_raises(tiny_config, tiny_model):
    cache = KeyValueCache(tiny_config, batch_size=1, capacity=4)
    with pytest.raises(CacheOverflowError, match="holds 0 of 4 steps and cannot take 5 more"):
        tiny_model.prefill(torch.randint(0, 1024, (1, 3, 5)), cache)


@torch.inference_mode()
def test_a_second_prefill_is_refused(tiny_config, tiny_model):
    cache = KeyValueCache(tiny_config, batch_size=1, capacity=9)
    sequence = torch.randint(0, 1024, (1, 3, 4))
    tiny_model.prefill(sequence, cache)
    with pytest.raises(ModelError, match="prefill needs an empty cache, this one holds 4 steps"):
        tiny_model.prefill(sequence, cache)


@torch.inference_mode()
def test_steps_write_into_the_room_allocated_at_the_start(tiny_config, tiny_model):
    cache = KeyValueCache(tiny_config, batch_size=1, capacity=3)
    keys, _ = cache.layers[0].extend(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
    more, _ = cache.layers[0].extend(torch.ones(1, 2, 1, 8), torch.ones(1, 2, 1, 8))
    assert keys.data_ptr() == more.data_ptr()
