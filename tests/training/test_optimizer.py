"""Laws of the optimizer: who decays, and moments by name."""

import pytest
import torch
from torch import nn

from melodac.errors import CheckpointMismatchError
from melodac.training.optimizer import (
    build_optimizer,
    decayed_names,
    load_optimizer_tensors,
    optimizer_tensors,
)


@pytest.fixture
def model():
    return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))


def take_step(model, optimizer):
    model(torch.arange(5)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_only_matrices_outside_embeddings_decay(model):
    assert decayed_names(model) == {"2.weight"}


def test_every_parameter_is_optimised_once(model, train_config):
    optimizer = build_optimizer(model, train_config)
    grouped = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in grouped} == {id(weight) for weight in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))


def test_loaded_moments_continue_the_same_path(model, train_config):
    optimizer = build_optimizer(model, train_config)
    take_step(model, optimizer)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    moments = {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    take_step(model, optimizer)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    other = build_optimizer(model, train_config)
    load_optimizer_tensors(other, model, moments)
    take_step(model, other)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_moments_of_another_model_are_refused(model, train_config):
    optimizer = build_optimizer(model, train_config)
    take_step(model, optimizer)
    moments = optimizer_tensors(optimizer, model)
    moments["exp_avg/3.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointMismatchError, match=r"exp_avg/3\.weight"):
        load_optimizer_tensors(build_optimizer(model, train_config), model, moments)
