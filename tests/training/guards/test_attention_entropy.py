"""Laws of attention entropy: its scale, what it ignores, that looking changes nothing."""

import math

import pytest
import torch

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.training.guards.variety import watched_attention
from melodac.training.seeding import seeded

NUM_LAYERS = 3


def build_model(text_bytes=0):
    config = LanguageModelConfig(
        text_bytes=text_bytes,
        text_layers=min(1, text_bytes),
        memory_dim=min(32, text_bytes),
        num_codebooks=2,
        dim=32,
        num_layers=NUM_LAYERS,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ff_dim=64,
        dropout=0.0,
        rope_base=10_000.0,
    )
    with seeded(0, "initialisation"):
        return LanguageModel(config).eval()


@pytest.fixture
def model():
    return build_model()


def sequence_of(steps, items=2):
    return torch.randint(0, 1024, (items, 2, steps), generator=torch.Generator().manual_seed(0))


def look(model, steps=12, items=2):
    with torch.inference_mode(), watched_attention() as seen:
        model(sequence_of(steps, items))
    return seen


def scale_queries(block, factor):
    """The one scale of queries and keys: logits grow with its square."""
    with torch.no_grad():
        block.attention.query_key_norm.weight.mul_(factor)


def slow_look(attention, x, rotary):
    """Entropy share and largest logit, one head and one step at a time."""
    query, key, _ = attention.project(x, rotary)
    group = attention.num_heads // attention.num_kv_heads
    shares, largest = [], -math.inf
    for b in range(query.shape[0]):
        for h in range(attention.num_heads):
            for s in range(query.shape[2]):
                logits = key[b, h // group, : s + 1] @ query[b, h, s] / attention.head_dim**0.5
                largest = max(largest, float(logits.max()))
                weights = logits.double().softmax(0)
                if s:
                    entropy = -float((weights * weights.log()).sum())
                    shares.append(entropy / math.log(s + 1))
    return sum(shares) / len(shares), largest


def test_it_matches_the_loop(model):
    inputs = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(lambda _, args: inputs.append(args[:2]))
    seen = look(model)
    with torch.inference_mode():
        for block, layer, (x, rotary) in zip(model.blocks, seen, inputs, strict=True):
            assert layer == pytest.approx(slow_look(block.attention, x, rotary), rel=1e-5)


def test_every_layer_is_seen_in_its_order(model):
    scale_queries(model.blocks[1], 6.0)
    seen = look(model)
    assert len(seen) == NUM_LAYERS
    assert min(range(NUM_LAYERS), key=lambda n: seen[n].entropy_share) == 1
    assert max(range(NUM_LAYERS), key=lambda n: seen[n].max_logit) == 1


def test_uniform_attention_has_1_at_any_length(model):
    for block in model.blocks:
        scale_queries(block, 0.0)
    for steps in (2, 5, 60):
        for layer in look(model, steps):
            assert layer.entropy_share == pytest.approx(1.0, abs=1e-6)
            assert layer.max_logit == 0.0


def test_attention_to_one_key_has_0(model):
    for block in model.blocks:
        scale_queries(block, 300.0)
    for layer in look(model):
        assert layer.entropy_share < 0.01


def test_the_start_of_training_is_near_uniform_and_says_nothing_of_collapse(model):
    """Why the value is only ever compared with itself (H6)."""
    for layer in look(model, steps=100):
        assert 0.75 < layer.entropy_share < 1.0


def test_looking_changes_no_logit(model):
    sequence = sequence_of(9)
    with torch.inference_mode():
        before = model(sequence)
        with watched_attention():
            during = model(sequence)
    assert torch.equal(before, during)


def test_what_reads_a_text_is_not_mistaken_for_a_layer():
    assert len(look(build_model(text_bytes=16))) == NUM_LAYERS


def test_looking_ends_even_if_the_model_fails(model):
    seen = []

    def fail():
        nonlocal seen
        with watched_attention() as seen:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    model(sequence_of(9))
    assert seen == []


def test_batch_mates_do_not_matter(model):
    pair, alone = look(model, items=2), look(model, items=1)
    sequence = sequence_of(12)[1:]
    with torch.inference_mode(), watched_attention() as other:
        model(sequence)
    for both, first, second in zip(pair, alone, other, strict=True):
        mean = (first.entropy_share + second.entropy_share) / 2
        assert both.entropy_share == pytest.approx(mean, rel=1e-5)
