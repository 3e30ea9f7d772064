"""Several processes are one: the same weights, losses and norms, with everything that is drawn.

The tolerances are those of float32 sums taken in another order, over twelve updates at a large
rate; measured differences are ten times smaller.
"""

import pytest
import torch

from tests.tiny import change_config
from tests.training.grid import EVERYTHING_DRAWN, build_run
from tests.training.ranks import largest_difference, newest, run_together, task

LOSS_NATS = 5e-6
NORM_REL = 2e-5
WEIGHT = 2e-5
BF16_NATS = 2e-3


def assert_alike(one, other, loss_nats=LOSS_NATS, norm_rel=NORM_REL):
    """Logged losses, norms and validations agree to rounding, update by update."""
    assert one.error == other.error == ""
    assert len(one.updates) == len(other.updates) == 12
    assert len(one.validations) == len(other.validations) > 0
    for a, b in zip(one.updates, other.updates, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=loss_nats)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=norm_rel)
        for same in ("num_frames", "epoch", "learning_rate", "is_skipped"):
            assert a[same] == b[same]
    for a, b in zip(one.validations, other.validations, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=loss_nats)
        assert a["is_best"] == b["is_best"]


def test_two_processes_equal_one(build_trainer, tmp_path):
    """Parts of one window each, some of them short: each process accumulates two."""
    (alone,), (first, second) = run_together(
        task(build_trainer(tmp_path / "1", micro_batch=1)),
        task(build_trainer(tmp_path / "2", micro_batch=1), world_size=2),
    )
    assert_alike(first, alone)
    assert [u["loss"] for u in first.updates] == [u["loss"] for u in second.updates]
    assert largest_difference(newest(tmp_path / "1"), newest(tmp_path / "2")) < WEIGHT


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_all_that_is_drawn_is_the_same_on_any_number_of_processes(train_config, tmp_path, sharding):
    """Dropout, noise, own codes, dropped and shuffled tags, and a context that grows."""
    config = change_config(train_config, EVERYTHING_DRAWN | {"micro_batch": 1})
    worlds = (1, 2, 3)
    (alone,), *others = run_together(
        *(task(build_run(config, tmp_path / str(n)), n, sharding) for n in worlds)
    )
    for world_size, heard in zip(worlds[1:], others, strict=True):
        assert_alike(heard[0], alone)
        found = newest(tmp_path / str(world_size))
        assert largest_difference(found, newest(tmp_path / "1")) < WEIGHT


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "optimizer"), [("ddp", "muon"), ("fsdp", "adamw")])
def test_switches_of_arithmetic_work_in_processes(build_trainer, tmp_path, sharding, optimizer):
    """bf16 with activations computed twice: rounded sums differ by what bf16 resolves."""
    changes = {
        "optimizer": optimizer, "micro_batch": 1,
        "compute": {"precision": "bf16", "recompute": True},
    }  # fmt: skip
    (alone,), (first, _) = run_together(
        task(build_trainer(tmp_path / "1", **changes)),
        task(build_trainer(tmp_path / "2", **changes), 2, sharding),
    )
    assert_alike(first, alone, loss_nats=BF16_NATS, norm_rel=1e-2)
    assert {value.dtype for value in newest(tmp_path / "2").values()} == {torch.float32}


@pytest.mark.slow
def test_muon_over_shares_is_refused_by_all_alike(build_trainer):
    ((first, second),) = run_together(task(build_trainer(optimizer="muon"), 2, "fsdp"))
    assert first.error == second.error
    assert "muon needs whole matrices" in first.error


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_processes_go_back_together(build_trainer, tmp_path, sharding):
    """Three poisoned updates in a row, and the run goes on from its last good checkpoint."""
    tasks = [
        task(build_trainer(tmp_path / str(n)), n, sharding, poison={0: (7, 8, 9)}) for n in (1, 2)
    ]
    (alone,), (first, second) = run_together(*tasks)
    assert [event.line()["event"] for event in alone.events][-1] == "rollback"
    assert [e.update for e in first.events] == [e.update for e in alone.events]
    assert [e.update for e in second.events] == [e.update for e in alone.events]
    assert [u["update"] for u in first.updates if u["is_skipped"]] == [7, 8, 9]
    for a, b in zip(first.updates, alone.updates, strict=True):
        if not a["is_skipped"]:
            assert a["loss"] == pytest.approx(b["loss"], abs=LOSS_NATS)
    assert largest_difference(newest(tmp_path / "2"), newest(tmp_path / "1")) < WEIGHT
