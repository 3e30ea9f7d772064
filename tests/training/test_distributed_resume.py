"""A run goes on with any number of processes and either sharding, to the bit where both stay."""

import pytest

from tests.training.ranks import are_equal, largest_difference, newest, run_together, task
from tests.training.test_distributed_parity import WEIGHT, assert_alike

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("sharding", "world_size"), [("fsdp", 2), ("ddp", 2), ("ddp", 3)])
def test_a_stopped_run_of_processes_ends_as_an_uninterrupted_one(
    build_trainer, tmp_path, sharding, world_size
):
    """To the bit, also where rank 1 alone was asked to stop."""

    def one(folder, **more):
        trainer = build_trainer(tmp_path / folder, windows_per_update=6, micro_batch=1)
        return task(trainer, world_size, sharding, **more)

    whole, first, second = run_together(one("whole"), one("parts", stop={1: 5}), one("parts"))
    assert [len(heard.updates) for heard in first] == [5] * world_size
    for before, after, uninterrupted in zip(first, second, whole, strict=True):
        losses = [update["loss"] for update in before.updates + after.updates]
        assert losses == [update["loss"] for update in uninterrupted.updates]
    found, expected = newest(tmp_path / "parts"), newest(tmp_path / "whole")

    assert are_equal(found, expected)


@pytest.mark.parametrize("order", [(1, 2, 1), (2, 1, 2)])
@pytest.mark.parametrize("shardings", [("ddp", "fsdp", "ddp"), ("fsdp", "ddp", "fsdp")])
def test_a_run_goes_on_with_other_processes_and_another_sharding(
    build_trainer, tmp_path, order, shardings
):
    whole = task(build_trainer(tmp_path / "whole"))
    parts = [
        task(build_trainer(tmp_path / "parts"), world_size, sharding, stop=stop)
        for world_size, sharding, stop in zip(order, shardings, [{0: 4}, {0: 4}, {}], strict=True)
    ]
    (alone,), *others = run_together(whole, *parts)
    assert [len(heard[0].updates) for heard in others] == [4, 4, 4]
    merged = others[-1][0]
    merged.updates = [update for heard in others for update in heard[0].updates]
    merged.validations = [found for heard in others for found in heard[0].validations]
    assert_alike(merged, alone)
    d = largest_difference(newest(tmp_path / "parts"), newest(tmp_path / "whole"))

    assert d < WEIGHT
