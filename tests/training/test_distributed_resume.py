"""A run goes on with any number of processes and either sharding, to the bit where both stay."""

import pytest

from tests.training.ranks import are_equal, largest_difference, newest, run_together, task
from tests.training.test_distributed_parity import WEIGHT, assert_alike

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("sharding", "world_size"), [("fsdp", 2), ("ddp", 2), ("ddp", 3)])
def test_a_stopped_run_of_processes_ends_as_an_uninterrupted_one(
    build_trainer, tmp_path, sharding, world_size
):
    """To the bit, though only process 1 was asked to stop."""

    def one(folder, **more):
        trainer = build_trainer(tmp_path / folder, windows_per_update=6, micro_batch=1)
        return task(trainer, world_size, sharding, **more)

    whole, first, second = run_together(one("whole"), one("parts", stop={1: 5}), one("parts"))
    assert [len(heard.updates) for heard in first] == [5] * world_size
    for before, after, uninterrupted in zip(first, second, whole, strict=True):
        losses = [update["loss"] for update in before.updates + after.updates]
        assert losses == [update["loss"] for update in uninterrupted.updates]
    assert are_equal(newest(tmp_path / "parts"), newest(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("worlds", "shardings"),
    [
        ((1, 2, 1), ("ddp", "fsdp", "ddp")),
        ((2, 1, 3), ("ddp", "ddp", "fsdp")),
        ((3, 2, 2), ("fsdp", "ddp", "fsdp")),
    ],
)
def test_a_run_goes_on_with_other_processes_and_another_sharding(
    build_trainer, tmp_path, worlds, shardings
):
    def one(folder, *how, **more):
        trainer = build_trainer(tmp_path / folder, windows_per_update=6, micro_batch=1)
        return task(trainer, *how, **more)

    stops = ({0: 4}, {0: 4}, {})
    (alone,), *others = run_together(
        one("whole"),
        *(
            one("parts", world_size, sharding, stop=stop)
            for world_size, sharding, stop in zip(worlds, shardings, stops, strict=True)
        ),
    )
    firsts = [heard[0] for heard in others]
    assert [len(heard.updates) for heard in firsts] == [4, 4, 4]
    merged = firsts[-1]
    merged.updates = [update for heard in firsts for update in heard.updates]
    merged.validations = [found for heard in firsts for found in heard.validations]
    assert_alike(merged, alone)
    assert largest_difference(newest(tmp_path / "parts"), newest(tmp_path / "whole")) < WEIGHT
