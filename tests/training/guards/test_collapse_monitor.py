"""Laws of the collapse monitor: what it says, what it leaves alone, what follows, what it remembers."""

import json

import pytest
import torch

from melodac.errors import CheckpointMismatchError, CollapseError
from melodac.tokens.windows import evaluation_windows
from melodac.training.guards.collapse import CollapseFinding, why_to_end
from melodac.training.guards.variety import choose_probe
from tests.training.guards.probed import (
    FRAMES,
    KINDS,
    build_model,
    build_monitor,
    build_probe,
    look,
    one_code,
)


@pytest.fixture
def model():
    return build_model()


def test_generated_cells_are_as_many_as_true_ones(model):
    metrics = look(model, build_probe(lengths=[FRAMES, 30]))
    assert metrics.generated.positions == metrics.predictions.truth.positions == (130, 130)


def test_looking_leaves_the_model_and_chance_as_they_were(model):
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    first, second = look(model.train()), look(model)
    assert first == second
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_loop_shows_as_repeats_beside_those_of_the_music(model):
    metrics = look(model, generate_codes=one_code)
    assert metrics.generated_repeats == pytest.approx(1 - 1 / 93)
    assert metrics.truth_repeats == 0.0
    assert "generated_repeats" in metrics.line()
    assert "generated_repeats" not in look(model, build_probe(5)).line()


def test_every_number_of_the_log_is_named_once(model):
    line = look(model).line()
    assert {f"{name}_k1" for name in ("usage", "target_usage", "entropy")} <= line.keys()
    assert {"attention_entropy_l1", "attention_logit_l1"} <= line.keys()
    assert line["usage_positions"] == 2 * FRAMES
    json.dumps(line, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_finding_has_a_remedy(kind):
    assert len(CollapseFinding(kind, "layer 0", 0.9, 0.7).reason) > 100


@pytest.mark.parametrize(
    ("action", "is_last", "ends"),
    [
        ("warn", False, False),
        ("warn", True, False),
        ("stop", False, True),
        ("stop", True, True),
        ("gate", False, False),
        ("gate", True, True),
    ],
)
def test_what_follows_is_what_the_params_say(action, is_last, ends):
    assert (why_to_end(action, ["codebook 0: x"], is_last=is_last) is not None) == ends
    assert why_to_end(action, [], is_last=is_last) is None


def test_a_gate_speaks_of_the_last_judgement_only(model):
    monitor = build_monitor("gate")
    monitor.judge(look(model, generate_codes=one_code))
    assert "collapsed in 2 places" in monitor.failure(is_last=True)
    monitor.judge(look(model))
    assert monitor.failure(is_last=True) is None


def test_what_was_found_and_the_start_survive_a_resume(model):
    monitor = build_monitor("gate")
    monitor.remember_start(look(model))
    monitor.judge(look(model, generate_codes=one_code))
    resumed = build_monitor("gate")
    resumed.restore(json.loads(json.dumps(monitor.state())))
    assert resumed.state() == monitor.state()
    assert resumed.failure(is_last=True) == monitor.failure(is_last=True)
    assert resumed.judge(look(model)).unjudged == ()


@pytest.mark.parametrize("lost", ["initial_attention", "found"])
def test_a_checkpoint_that_forgot_is_refused(lost):
    state = build_monitor().state()
    del state[lost]
    with pytest.raises(
        CheckpointMismatchError, match=f"collapse state of the checkpoint lacks {lost}"
    ):
        build_monitor().restore(state)


def test_probe_windows_are_whole_and_spread_over_the_music():
    windows = evaluation_windows([250, 30, 410], frames=100)
    probe = choose_probe(windows, 3)
    assert [(w.track, w.start, w.num_frames) for w in (probe[n] for n in range(3))] == [
        (0, 0, 100),
        (2, 0, 100),
        (2, 300, 100),
    ]
    assert len(choose_probe(windows, 50)) == len(windows)


def test_what_ends_a_run_is_raised(model):
    monitor = build_monitor("stop")
    monitor.refuse(is_last=True)
    monitor.judge(look(model, generate_codes=one_code))
    with pytest.raises(CollapseError, match="collapsed in 2 places"):
        monitor.refuse(is_last=False)


def test_the_log_holds_the_attention_of_the_start_and_what_is_not_judged(model):
    monitor = build_monitor()
    metrics = look(model)
    assert monitor.judge(metrics).line["num_unjudged"] == 2
    assert "update 0 is not known" in monitor.judge(metrics).line["why_unjudged"]
    monitor.remember_start(metrics)
    line = monitor.judge(metrics).line
    assert line["attention_start_l1"] == line["attention_entropy_l1"]
    assert line["num_unjudged"] == 0
    assert "why_unjudged" not in line
