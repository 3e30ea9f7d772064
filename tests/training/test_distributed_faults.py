"""What one process alone meets, all act on alike: none is left waiting, and the state stays whole."""

import pytest

from melodac.training.checkpoint import latest_checkpoint
from tests.training.ranks import are_equal, newest, run_together, task

pytestmark = pytest.mark.slow
BOTH = pytest.mark.parametrize("sharding", ["ddp", "fsdp"])


def test_a_process_of_another_run_is_refused_by_all_alike(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path)
    other = {1: {"data_fingerprint": "another"}}
    ((first, second),) = run_together(task(trainer, 2, identities=other))
    assert first.error == second.error
    assert first.error.startswith("ConfigError: process 1 has another identity of the run")
    assert first.updates == second.updates == first.written == second.written == []


@BOTH
def test_a_gradient_that_is_nan_in_one_process_is_refused_by_all(build_trainer, tmp_path, sharding):
    poisoned = task(build_trainer(tmp_path / "poisoned"), 2, sharding, poison={1: (5,)})
    ((first, second),) = run_together(poisoned)
    assert first.error == second.error == ""
    for heard in (first, second):
        assert [u["update"] for u in heard.updates if u["is_skipped"]] == [5]
        assert [event.update for event in heard.events] == [5]
    assert [u["grad_norm"] for u in first.updates] == [u["grad_norm"] for u in second.updates]
    assert all(value.isfinite().all() for value in newest(tmp_path / "poisoned").values())


@BOTH
def test_a_process_that_is_killed_takes_the_others_down_and_no_checkpoint(
    build_trainer, tmp_path, sharding
):
    """Without torchrun, which would end them too: the others' next exchange fails, at once."""
    killed, resumed, _ = run_together(
        task(build_trainer(tmp_path / "killed"), 2, sharding, die={1: 7}),
        task(build_trainer(tmp_path / "killed"), 2, sharding),
        task(build_trainer(tmp_path / "whole"), 2, sharding),
    )
    first, second = killed
    assert second is None
    assert first.error.startswith("RuntimeError")
    assert "gloo" in first.error
    assert first.written[-1] == "checkpoints/6"
    assert resumed[0].updates[0]["update"] == 7
    assert are_equal(newest(tmp_path / "killed"), newest(tmp_path / "whole"))


@BOTH
def test_only_the_first_process_writes(build_trainer, tmp_path, sharding):
    ((first, *others),) = run_together(task(build_trainer(tmp_path), 2, sharding))
    kept = [name for name in first.written if name.startswith("checkpoints/")]
    assert kept[-4:] == [f"checkpoints/{update}" for update in (6, 9, 12, 12)]
    assert [one.written for one in others] == [[]]
    assert latest_checkpoint(tmp_path / "checkpoints").checkpoint.update == 12
