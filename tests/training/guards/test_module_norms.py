"""Norms by module add up to the norm of the whole, of a model as of named tensors."""

import math

import pytest
import torch

from melodac.training.guards.model_probe import (
    codebook_norms,
    gradient_norms,
    module_of,
    norms_by_module,
)

MODULES = [
    "embedding",
    "blocks.0.attention_norm",
    "blocks.0.attention",
    "blocks.0.feedforward_norm",
    "blocks.0.feedforward",
    "head_norm",
    "head",
]


@pytest.fixture
def model(build_model):
    return build_model(dropout=0.0)


def learn(model):
    model(torch.randint(0, 1024, (2, 2, 9))).square().mean().backward()


def whole(tensors):
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def test_every_parameter_belongs_to_one_module(model):
    assert list(norms_by_module(model.state_dict())) == MODULES
    assert module_of("blocks.12.cross_attention.query.weight") == "blocks.12.cross_attention"


def test_squares_add_up_to_the_square_of_the_whole(model):
    learn(model)
    assert math.hypot(*norms_by_module(model.state_dict()).values()) == pytest.approx(
        whole(model.parameters())
    )
    gradients = [weight.grad for weight in model.parameters()]
    assert math.hypot(*gradient_norms(model).values()) == pytest.approx(whole(gradients))


def test_a_parameter_without_gradient_counts_as_zero(model):
    assert set(gradient_norms(model).values()) == {0.0}
    learn(model)
    model.head.weight.grad = None
    assert gradient_norms(model)["head"] == 0.0


def test_named_tensors_of_a_checkpoint_do_as_well(model):
    assert norms_by_module(model.state_dict()) == norms_by_module(dict(model.named_parameters()))


def test_a_codebook_is_seen_by_itself():
    table = torch.ones(6, 4)
    table[2:4] = 0
    assert codebook_norms(table, 3).tolist() == pytest.approx([math.sqrt(8), 0.0, math.sqrt(8)])
