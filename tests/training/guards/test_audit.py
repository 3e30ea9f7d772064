"""Laws of the start audit: every named size passes and is left as it was, under every pattern."""

import math

import pytest
import torch

from melodac.tokens.delay import PATTERN_NAMES, build_pattern
from melodac.training.guards.start import audit_start
from tests.training.guards.audited import audit, build, part

SLOW_SMALL = pytest.param("small", marks=pytest.mark.slow)


@pytest.mark.parametrize("delay", PATTERN_NAMES)
def test_a_fresh_model_passes_under_every_pattern(delay):
    assert audit(build(num_codebooks=9), delay).problems == ()


@pytest.mark.parametrize("size", ["nano", "micro", SLOW_SMALL])
def test_fresh_models_pass_that_read_texts(size):
    assert audit(build(size, reads_text=True)).problems == ()


@pytest.mark.parametrize("size", ["micro", SLOW_SMALL])
def test_larger_fresh_models_pass(size):
    assert audit(build(size)).problems == ()


def test_weights_mode_and_gradients_are_as_before():
    model = build(reads_text=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    audit(model)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_model_gives_one_report():
    assert audit(build()) == audit(build())


def test_a_piece_of_a_long_window_is_enough():
    pattern = build_pattern("musicgen", 2)
    long = part(pattern, frames=2000, items=3)
    seen = []
    model = build()
    model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    assert audit_start(model, [long, long], pattern).problems == ()
    assert set(seen) == {(2, 2, 512)}


def test_every_layer_and_codebook_is_measured():
    numbers = audit(build(reads_text=True)).numbers
    for layer in range(4):
        for sublayer in ("attention", "cross_attention", "feedforward"):
            name = f"blocks.{layer}.{sublayer}"
            assert 0.02 < numbers[f"sublayer_ratio.{name}"] < 6
            assert numbers[f"gradient_norm.{name}"] > 0
        assert numbers[f"attention_logit_std.blocks.{layer}.attention"] == pytest.approx(1, abs=0.2)
        assert 2 < numbers[f"attention_logit_max.blocks.{layer}.attention"] < 8
    for codebook in range(2):
        assert numbers[f"loss_k{codebook}"] == pytest.approx(math.log(1024), abs=0.1)


def test_facts_are_those_of_the_model_itself():
    model = build()
    facts = audit(model).facts
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["parameters.head"] == model.head.weight.numel()
    assert facts["parameter_types"] == "float32"
    assert facts["order.blocks.0 to blocks.3"] == (
        "attention_norm > attention > dropout > feedforward_norm > feedforward > dropout"
    )


def test_a_block_that_norms_after_its_sublayers_is_told_as_such():
    model = build()
    block = model.blocks[3]

    def post_norm(x, rotary, cache=None, *, memory=None, seen=None):
        x = block.attention_norm(x + block.attention(x, rotary, cache))
        return block.feedforward_norm(x + block.feedforward(x))

    block.forward = post_norm
    facts = audit(model).facts
    assert facts["order.blocks.3"] == "attention > attention_norm > feedforward > feedforward_norm"
