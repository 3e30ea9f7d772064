"""Laws of the gate's verdict: each way to fail has its own sentence and its own advice."""

import pytest

from melodac.training.config import OverfitConfig
from melodac.training.overfit_report import (
    advise,
    find_constant_codebooks,
    find_free_run_faults,
)
from melodac.training.overfit_runs import FreeRuns

RUNS = FreeRuns(
    from_nothing=0.5,
    continued={1: 0.6, 8: 1.0, 64: 1.0},
    continued_per_codebook=(1.0, 1.0),
    sampled={0.5: (1.0,), 1.0: (0.9,)},
)


def gate(**changes):
    values = {
        "windows": 2,
        "window_frames": 128,
        "prefix_frames": 8,
        "updates": 300,
        "stop_loss": 0.05,
        "min_accuracy": 0.99,
        "seed": 0,
    }
    return OverfitConfig(**values | changes)


def curve(start, end, updates=300):
    return [start + (end - start) * update / (updates - 1) for update in range(updates)]


@pytest.fixture
def train(train_config):
    return train_config.model_copy(update={"updates": 300, "learning_rate": 1e-4})


def test_several_windows_need_a_prefix_and_one_does_not():
    assert find_free_run_faults(RUNS, gate()) == []
    (fault,) = find_free_run_faults(RUNS, gate(windows=1))
    assert fault == (
        "played freely from nothing, 50.0% of the cells are right, 99.0% are asked for"
    )


def test_every_codebook_must_beat_what_never_looks():
    assert find_constant_codebooks([0.3, 0.01], [4.0, 0.0]) == []
    (fault,) = find_constant_codebooks([0.3, 2.5, 0.1], [4.0, 4.0, 0.0])
    assert fault == (
        "2 of 3 codebooks are hardly better predicted than by never looking, the first is 1 "
        "(2.500 nats per code, 4.000 without looking)"
    )
    assert find_constant_codebooks([float("nan")], [4.0])


def test_a_loss_that_falls_asks_for_more_updates(train):
    advice = advise(curve(6.9, 2.0), 0.5, train=train)
    assert "still falling" in advice
    assert "raise overfit.updates (300) to about 4" in advice
    assert "learning_rate" not in advice


def test_a_loss_that_hardly_falls_asks_for_a_higher_rate(train):
    falling = [6.9 * (0.9985**update) for update in range(300)]
    assert "raise overfit.updates" in advise(falling, 0.1, train=train)
    crawling = [6.9 * (0.99962**update) for update in range(300)]
    assert "raise train.learning_rate (0.0001)" in advise(crawling, 0.1, train=train)


def test_a_loss_that_stands_asks_for_neither(train):
    advice = advise([5.0] * 300, 0.1, train=train)
    assert advice == (
        "the loss stands at 5.000: more updates will not help, lower train.learning_rate (0.0001), "
        "or model or data are at fault"
    )


def test_windows_known_by_heart_put_the_blame_on_generation(train):
    assert "delay, shift or generation" in advise(curve(6.9, 0.04), 1.0, train=train)


def test_a_gate_of_one_update_has_an_advice(train):
    assert advise([6.9], 0.0, train=train)
