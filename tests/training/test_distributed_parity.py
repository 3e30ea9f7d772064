"""Two processes are one: the same weights, losses and norms, with everything that is drawn at random.

The tolerance is that of float32 sums taken in another order, over twelve updates at a large rate.
"""

import pytest

from melodac.training.checkpoint import latest_checkpoint
from tests.training.ranks import are_equal, largest_difference, newest, run_together, task

LOSS_NATS = 1e-5
NORM_REL = 1e-4
WEIGHT = 1e-4
EVERYTHING = {
    "dropout": 0.2,
    "corruption": {"token_noise": 0.2, "own_codes": 0.2, "own_codes_updates": 2},
    "objective": {"label_smoothing": 0.1, "codebook_weights": "auto", "entropy_bonus": 0.01},
}


def assert_alike(one, other):
    """Logged losses, norms and validations agree to rounding, update by update."""
    assert len(one.updates) == len(other.updates) > 0
    for a, b in zip(one.updates, other.updates, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=LOSS_NATS)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=NORM_REL)
        assert a["num_frames"] == b["num_frames"]
        assert a["learning_rate"] == b["learning_rate"]
    for a, b in zip(one.validations, other.validations, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=LOSS_NATS)


def test_two_processes_equal_one(build_trainer, tmp_path):
    """Parts of one window each, some of them short: two are accumulated by each process."""
    one, two = (task(build_trainer(tmp_path / str(n), micro_batch=1), world_size=n) for n in (1, 2))
    (alone,), (first, second) = run_together(one, two)
    assert first.error == second.error == alone.error == ""
    assert_alike(first, alone)
    assert [u["loss"] for u in first.updates] == [u["loss"] for u in second.updates]
    found, expected = newest(tmp_path / "2"), newest(tmp_path / "1")
    difference = largest_difference(found, expected)

    assert difference < WEIGHT
    assert first.written == alone.written
    assert second.written == []
    return


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_chance_is_the_same_on_any_number_of_processes(build_trainer, tmp_path, sharding):
    tasks = [
        task(build_trainer(tmp_path / str(n), micro_batch=1, **EVERYTHING), n, sharding)
        for n in (1, 2, 4)
    ]
    (alone,), *others = run_together(*tasks)
    for number, heard in zip((2, 4), others, strict=True):
        assert {one.error for one in heard} == {""}
        assert_alike(heard[0], alone)
        d = largest_difference(newest(tmp_path / str(number)), newest(tmp_path / "1"))

        assert d < WEIGHT
