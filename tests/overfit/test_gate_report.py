"""Laws of the gate's verdict: each way to fail has its own cause and its own advice."""

import pytest
import torch

from melodac.overfit.free_runs import Departure, FreeRuns, find_departure
from melodac.overfit.report import (
    Findings,
    explain_failure,
    find_constant_codebooks,
    find_free_run_faults,
)
from melodac.tokens.delay import build_pattern
from melodac.training.config import OverfitConfig
from melodac.training.events import Event

RUNS = FreeRuns(
    from_nothing=0.5,
    continued={1: 0.6, 8: 1.0, 64: 1.0},
    continued_per_codebook=(1.0, 1.0),
    sampled={0.5: (1.0,), 1.0: (0.9,)},
    departure=None,
)
HEADLESS = "codebook 1 is hardly better predicted than by never looking"


def gate(**changes):
    values = {
        "action": "stop",
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


def explain(losses, accuracy=0.5, *, departure=None, train, **changes):
    values = {
        "silent_modules": (),
        "stopped": None,
        "free_run_faults": ("continued freely from 8 frames, 50.0% of the cells are right",),
        "constant_codebooks": (),
        "num_codebooks": 2,
        "losses": losses,
        "accuracy": accuracy,
    }
    return explain_failure(Findings(**values | changes), departure, train=train)


def test_every_codebook_must_beat_what_never_looks():
    wrong = (0.2, 0.2, 0.2)
    assert find_constant_codebooks([0.3, 0.01], [4.0, 0.0], wrong[:2], gate()) == ()
    (fault,) = find_constant_codebooks([0.3, 2.5, 0.01], [4.0, 4.0, 0.0], wrong, gate())
    assert fault == (
        "codebook 1 is hardly better predicted than by never looking (2.500 nats per code, 4.000 "
        "without looking)"
    )
    assert find_constant_codebooks([float("nan")], [4.0], [0.0], gate())


def test_a_codebook_that_comes_back_is_learned_however_few_nats_it_had():
    """A codebook of a quiet window has hardly any entropy: 0.06 of 0.08 nats are no fault."""
    assert find_constant_codebooks([0.06], [0.08], [1.0], gate()) == ()
    assert find_constant_codebooks([0.06], [0.08], [0.9], gate()) != ()


def test_no_problem_has_no_cause(train):
    assert explain([6.9, 0.01], 1.0, train=train, free_run_faults=()) == ""


def test_a_loss_that_falls_asks_for_more_updates(train):
    cause = explain(curve(6.9, 2.0), train=train)
    assert cause.startswith("the windows are not learned, teacher forcing predicts 50.0% of the")
    assert "raise overfit.updates (300) to about 4" in cause
    assert "learning_rate" not in cause


def test_a_loss_that_hardly_falls_asks_for_a_higher_rate(train):
    falling = [6.9 * (0.9985**update) for update in range(300)]
    assert "raise overfit.updates" in explain(falling, train=train)
    crawling = [6.9 * (0.99962**update) for update in range(300)]
    assert "raise train.learning_rate (0.0001)" in explain(crawling, train=train)


def test_a_loss_that_stands_asks_for_neither(train):
    assert explain([5.0] * 300, train=train).endswith(
        "the loss stands at 5.000, more updates will not help, lower train.learning_rate (0.0001), "
        "or model or data are at fault"
    )


def test_windows_known_by_heart_put_the_blame_on_generation(train):
    departure = Departure(window=1, codebook=3, frame=17, played=5, predicted=7)
    assert explain(curve(6.9, 0.04), 1.0, departure=departure, train=train) == (
        "cached generation differs from teacher forcing: in window 1, codebook 3, frame 17 it says "
        "5 where the same past, read at once, makes 7 likeliest: look at delay, shift and "
        "generation, the training is not at fault"
    )


def test_a_run_that_was_stopped_says_why_and_not_that_the_loss_is_high(train):
    refusal = Event("skip", 281, "update refused: gradient norm; 5 updates in a row are refused")
    cause = explain(curve(6.9, 2.0), train=train, stopped=refusal)
    assert cause.startswith("the stability controller stopped the optimisation at update 281 (upd")
    assert "5 updates in a row are refused" in cause
    assert "lower train.learning_rate (0.0001)" in cause
    assert "overfit.updates" not in cause


def test_one_head_that_learns_nothing_is_named_and_all_of_them_are_a_matter_of_the_rate(train):
    cause = explain([5.0] * 300, train=train, constant_codebooks=(HEADLESS,))
    assert cause.startswith(f"{HEADLESS}: look at its head")
    cause = explain([5.0] * 300, train=train, constant_codebooks=(HEADLESS, HEADLESS))
    assert cause.startswith("the windows are not learned")


def test_a_module_without_gradient_is_the_first_cause(train):
    silent = "head receives no gradient from an update of the gate: look at what reads it"
    refusal = Event("skip", 5, "update refused")
    assert explain([5.0], train=train, silent_modules=(silent,), stopped=refusal) == silent


def test_a_gate_of_one_update_has_an_advice(train):
    assert explain([6.9], 0.0, train=train)


@pytest.mark.parametrize("delay", [(0, 1), (1, 0), (0, 0), "flat"])
def test_generation_is_at_fault_only_where_the_same_past_says_otherwise(delay):
    pattern = build_pattern(delay, 2)
    codes = torch.arange(12).view(1, 2, 6)
    guesses = codes.clone()
    guesses[0, 1, 3] = 99
    # what teacher forcing gets wrong too, and all that follows from it, proves nothing
    found = guesses.clone()
    found[..., 5:] = 77
    assert find_departure(codes, codes, guesses, pattern) is None
    assert find_departure(found, codes, guesses, pattern) is None
    found[0, 0, 1] = 55
    assert find_departure(found, codes, guesses, pattern) == Departure(0, 0, 1, 55, 1)
