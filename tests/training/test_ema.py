"""Laws of the averaged weights."""

import pytest
import torch

from melodac.training.ema import ExponentialAverage, decay_at


@pytest.fixture
def model(build_model):
    return build_model()


def test_average_matches_the_formula(model):
    average = ExponentialAverage(model, decay=0.9)
    expected = model.head.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            model.head.weight.add_(torch.randn_like(model.head.weight))
        average.update(model, update)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.head.weight.detach()
    torch.testing.assert_close(average.model.head.weight, expected, rtol=1e-5, atol=1e-5)


def test_decay_rises_to_its_value():
    decays = [decay_at(update, 0.99) for update in range(1, 2000)]
    assert decays == sorted(decays)
    assert decays[0] < 0.2
    assert decays[-1] == pytest.approx(0.99)


def test_without_decay_the_average_is_the_model(model):
    average = ExponentialAverage(model, decay=0.0)
    with torch.no_grad():
        model.head.weight.mul_(3.0)
    average.update(model, 1)
    assert torch.equal(average.model.head.weight, model.head.weight)


def test_average_is_apart_from_the_model(model):
    average = ExponentialAverage(model, decay=0.5)
    before = average.model.head.weight.clone()
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(average.model.head.weight, before)
    assert not any(weight.requires_grad for weight in average.model.parameters())
    assert not average.model.training
