"""Laws of the averaged weights."""

import pytest
import torch
from torch import distributed

from melodac.training.distributed import shard
from melodac.training.optimizer import ExponentialAverage, decay_at
from melodac.training.trainer import Callbacks


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


def test_the_average_of_a_sharded_model_is_that_of_a_whole_one(build_model):
    """The average is copied before the model is cut, and cut alike."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        whole, cut = build_model(), build_model()
        averages = ExponentialAverage(whole, decay=0.9), ExponentialAverage(cut, decay=0.9)
        shard(cut, 1)
        shard(averages[1].model, 1)
        for update in range(1, 6):
            for model, average in zip((whole, cut), averages, strict=True):
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.mul_(1.1).add_(update)
                average.update(model, update)
        expected = averages[0].model.parameters()
        for one, other in zip(expected, averages[1].model.parameters(), strict=True):
            assert torch.equal(one, other.full_tensor())
    finally:
        distributed.destroy_process_group()


def test_a_refused_update_leaves_the_average_as_it_was(build_trainer):
    trainer = build_trainer(stop_at=2)
    trainer.run()
    before = [weight.clone() for weight in trainer.state.average.model.parameters()]
    trainer.state.model.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    trainer.callbacks = Callbacks(should_stop=lambda: trainer.update == 4)
    trainer.run()
    assert trainer.update == 4
    after = trainer.state.average.model.parameters()
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
