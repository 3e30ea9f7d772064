"""Laws of the averaged weights."""

import pytest
import torch
from torch import nn

from melodac.training.ema import ExponentialAverage, decay_at


def test_average_matches_the_formula():
    model = nn.Linear(3, 2)
    average = ExponentialAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(model, update)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, expected, rtol=1e-5, atol=1e-6)


def test_decay_rises_to_its_value():
    decays = [decay_at(update, 0.99) for update in range(1, 2000)]
    assert decays == sorted(decays)
    assert decays[0] < 0.2
    assert decays[-1] == pytest.approx(0.99)


def test_without_decay_the_average_is_the_model():
    model = nn.Linear(3, 2)
    average = ExponentialAverage(model, decay=0.0)
    with torch.no_grad():
        model.weight.mul_(3.0)
    average.update(model, 1)
    assert torch.equal(average.model.weight, model.weight)


def test_average_is_apart_from_the_model():
    model = nn.Linear(3, 2)
    average = ExponentialAverage(model, decay=0.5)
    before = average.model.weight.clone()
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(average.model.weight, before)
    assert not average.model.weight.requires_grad
