"""Laws of what is called collapse: what is flagged, what is not, what is not judged."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.training.guards.collapse import MIN_POSITIONS
from melodac.training.guards.variety import CodeUse, CollapseMetrics, LayerAttention, PredictionUse
from tests.training.guards.probed import (
    KINDS,
    K,
    build_model,
    build_monitor,
    build_probe,
    look,
    one_code,
    say_one_code,
    start,
)


@pytest.fixture
def model():
    return build_model()


def test_an_untrained_model_is_not_flagged(model):
    """Few cells beside 1024 codes, attention near uniform: both were called collapse once."""
    for frames in (40, 100, 400):
        probe = build_probe(frames)
        monitor = build_monitor()
        metrics = look(model, probe)
        monitor.remember_start(metrics)
        assert monitor.judge(metrics).findings == ()


def test_a_model_that_has_learned_every_code_is_not_flagged(model):
    """Sure of itself, entropy of its predictions near 0, and as varied as the music."""
    monitor, probe = start(model), build_probe()
    metrics = look(model, probe)
    truth = metrics.predictions.truth
    learned = PredictionUse(truth, truth, truth, (0.001,) * K)
    found = CollapseMetrics(learned, metrics.generated, 0.0, 0.0, metrics.attention)
    assert monitor.judge(found).findings == ()


def test_a_sound_model_whose_likeliest_code_is_always_the_same_is_not_flagged(model):
    monitor = start(model)
    with torch.no_grad():
        model.head.weight.zero_()
    metrics = look(model)
    assert max(metrics.predictions.likeliest.distinct) == 1
    assert monitor.judge(metrics).findings == ()


@pytest.mark.parametrize("codebook", range(K))
def test_a_codebook_that_always_says_one_code_is_flagged(model, codebook):
    monitor = start(model)
    say_one_code(model, codebook)
    findings = monitor.judge(look(model)).findings
    assert {(finding.kind, finding.place) for finding in findings} == {
        ("usage", f"codebook {codebook}"),
        ("entropy", f"codebook {codebook}"),
    }


def test_poor_generation_of_a_sound_model_is_flagged(model):
    findings = start(model).judge(look(model, generate_codes=one_code)).findings
    assert [(finding.kind, finding.place) for finding in findings] == [
        ("generated_usage", "codebook 0"),
        ("generated_usage", "codebook 1"),
    ]


def test_a_layer_that_came_to_look_at_one_place_is_flagged(model):
    monitor = start(model)
    with torch.no_grad():
        model.blocks[1].attention.query_key_norm.weight.mul_(300.0)
    findings = monitor.judge(look(model)).findings
    assert [(finding.kind, finding.place) for finding in findings] == [("attention", "layer 1")]


def test_uniform_attention_is_no_collapse_by_itself(model):
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query_key_norm.weight.zero_()
    metrics = look(model)
    assert all(layer.entropy_share == pytest.approx(1.0) for layer in metrics.attention)
    monitor = build_monitor()
    monitor.remember_start(metrics)
    assert monitor.judge(metrics).findings == ()


def test_too_few_cells_are_not_judged(model):
    monitor = start(model)
    say_one_code(model)
    metrics = look(model, build_probe(MIN_POSITIONS // 2 - 1), one_code)
    assert monitor.judge(metrics).findings == ()
    unjudged = monitor.judge(metrics).unjudged
    assert [(check.kind, check.place) for check in unjudged] == [
        (kind, f"codebook {k}") for k in range(K) for kind in KINDS[:3]
    ]
    assert f"only 62 cells were looked at, {MIN_POSITIONS} are needed" in unjudged[0].reason


def test_music_of_few_codes_is_not_judged_by_their_number(model):
    """Of 8 true codes one is already more than the tenth that is asked for."""
    monitor = start(model)
    say_one_code(model)
    metrics = look(model, build_probe(num_codes=8), one_code)
    assert {finding.kind for finding in monitor.judge(metrics).findings} == {"entropy"}
    unjudged = {check.kind: check.reason for check in monitor.judge(metrics).unjudged}
    assert unjudged.keys() == {"usage", "generated_usage"}
    assert "only 8 codes" in unjudged["usage"]


def test_silence_has_no_variety_to_lose(model):
    metrics = look(model, build_probe(num_codes=1), one_code)
    monitor = start(model)
    say_one_code(model)
    assert monitor.judge(metrics).findings == ()
    assert {check.kind for check in monitor.judge(metrics).unjudged} == set(KINDS[:3])


def test_attention_without_its_start_is_not_judged(model):
    monitor = build_monitor()
    metrics = look(model)
    assert monitor.judge(metrics).findings == ()
    assert [check.kind for check in monitor.judge(metrics).unjudged] == ["attention"] * 2


@settings(max_examples=30)
@given(positions=st.integers(MIN_POSITIONS, 5000))
def test_the_verdict_on_a_sound_model_does_not_depend_on_the_number_of_cells(positions):
    """A count of codes beside all 1024 did: 300 cells cannot hold 30 % of them (H4)."""
    codes = np.random.default_rng(positions).integers(0, 1024, (2, positions))
    uses = [
        CodeUse((positions,), (len(np.unique(some)),), (math.log(len(np.unique(some))),))
        for some in codes
    ]
    metrics = CollapseMetrics(
        PredictionUse(uses[0], uses[1], uses[1], (6.9,)), uses[1], None, None, ()
    )
    monitor = build_monitor()
    assert monitor.judge(metrics).findings == ()
    assert monitor.judge(metrics).unjudged == ()


def test_attention_that_moves_less_than_asked_for_is_not_flagged():
    use = CodeUse((100,), (50,), (3.9,))
    monitor = build_monitor()
    shares = {"start": 0.9, "near": 0.25, "far": 0.15}
    metrics = {
        name: CollapseMetrics(
            PredictionUse(use, use, use, (3.9,)), use, None, None, (LayerAttention(share, 1.0),)
        )
        for name, share in shares.items()
    }
    monitor.remember_start(metrics["start"])
    assert monitor.judge(metrics["near"]).findings == ()
    values = [finding.value for finding in monitor.judge(metrics["far"]).findings]
    assert values == [pytest.approx(0.75)]


def test_a_finding_says_what_may_help_and_what_did_not(model):
    say_one_code(model)
    for finding in build_monitor().judge(look(model, generate_codes=one_code)).findings:
        event = finding.event(update=40).line()
        assert event["event"] == "collapse"
        assert event["place"] in event["reason"]
        assert f"{finding.value:.3f}" in event["reason"]
        assert "; but in one earlier system" in event["reason"]
        assert "train." in event["reason"]
        assert "\n" not in event["reason"]
