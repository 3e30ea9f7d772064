"""Laws of the collapse monitor: what is flagged, what is not, what is not judged, what follows."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import CheckpointMismatchError
from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.batches import Batch
from melodac.tokens.delay import build_pattern
from melodac.tokens.windows import evaluation_windows
from melodac.training.attention_entropy import LayerAttention
from melodac.training.collapse import CollapseMonitor, why_to_end
from melodac.training.collapse_findings import MIN_POSITIONS, Finding
from melodac.training.collapse_probe import CollapseMetrics, choose_probe
from melodac.training.sections import CollapseConfig
from melodac.training.seeding import seeded
from melodac.training.usage import CodeUse, PredictionUse

K, FRAMES = 2, 100
PATTERN = build_pattern([0, 1], num_codebooks=K)
KINDS = ("usage", "generated_usage", "entropy", "attention")


def build_monitor(action="warn"):
    return CollapseMonitor(
        CollapseConfig(
            action=action,
            probe_windows=2,
            min_usage_ratio=0.1,
            min_entropy_ratio=0.5,
            max_attention_change=0.7,
        )
    )


@pytest.fixture
def model():
    config = LanguageModelConfig(
        num_codebooks=K,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ff_dim=64,
        dropout=0.5,
        rope_base=10_000.0,
    )
    with seeded(0, "initialisation"):
        return LanguageModel(config)


def build_probe(frames=FRAMES, num_codes=1024, lengths=None):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(lengths or [frames, frames])
    codes = torch.randint(0, num_codes, (len(lengths), K, frames + 1), generator=generator)
    return Batch(codes, torch.arange(frames) < lengths[:, None])


def any_codes(model, num_items, num_frames):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 1024, (num_items, K, num_frames), generator=generator)


def one_code(model, num_items, num_frames):
    return torch.full((num_items, K, num_frames), 5)


def look(model, probe=None, generate_codes=any_codes, monitor=None):
    monitor = monitor or build_monitor()
    return monitor.measure(model, PATTERN, probe or build_probe(), generate_codes=generate_codes)


def start(model):
    monitor = build_monitor()
    monitor.remember_start(look(model, monitor=monitor))
    return monitor


def say_one_code(model, codebook=0):
    """Give one head a bias it does not have: the stream gets a constant that only one code reads."""
    with torch.no_grad():
        model.head_norm.weight[0] = 100.0
        model.embedding.weight[:, 0] = 10.0
        model.head.weight[:, 0] = 0.0
        model.head.weight[codebook * 1024 + 7, 0] = 1.0


def test_an_untrained_model_is_not_flagged(model):
    """Few cells beside 1024 codes, attention near uniform: both were called collapse once."""
    for frames in (40, 100, 400):
        probe = build_probe(frames)
        monitor = build_monitor()
        metrics = look(model, probe)
        monitor.remember_start(metrics)
        assert monitor.judge(metrics) == ()


def test_a_model_that_has_learned_every_code_is_not_flagged(model):
    """Sure of itself, entropy of its predictions near 0, and as varied as the music."""
    monitor, probe = start(model), build_probe()
    metrics = look(model, probe)
    truth = metrics.predictions.truth
    learned = PredictionUse(truth, truth, truth, (0.001,) * K)
    found = CollapseMetrics(learned, metrics.generated, 0.0, 0.0, metrics.attention)
    assert monitor.judge(found) == ()


def test_a_sound_model_whose_likeliest_code_is_always_the_same_is_not_flagged(model):
    monitor = start(model)
    with torch.no_grad():
        model.head.weight.zero_()
    metrics = look(model)
    assert max(metrics.predictions.likeliest.distinct) == 1
    assert monitor.judge(metrics) == ()


@pytest.mark.parametrize("codebook", range(K))
def test_a_codebook_that_always_says_one_code_is_flagged(model, codebook):
    monitor = start(model)
    say_one_code(model, codebook)
    findings = monitor.judge(look(model))
    assert {(finding.kind, finding.place) for finding in findings} == {
        ("usage", f"codebook {codebook}"),
        ("entropy", f"codebook {codebook}"),
    }


def test_poor_generation_of_a_sound_model_is_flagged(model):
    findings = start(model).judge(look(model, generate_codes=one_code))
    assert [(finding.kind, finding.place) for finding in findings] == [
        ("generated_usage", "codebook 0"),
        ("generated_usage", "codebook 1"),
    ]


def test_a_layer_that_came_to_look_at_one_place_is_flagged(model):
    monitor = start(model)
    with torch.no_grad():
        model.blocks[1].attention.query_key_norm.weight.mul_(300.0)
    findings = monitor.judge(look(model))
    assert [(finding.kind, finding.place) for finding in findings] == [("attention", "layer 1")]


def test_uniform_attention_is_no_collapse_by_itself(model):
    with torch.no_grad():
        for block in model.blocks:
            block.attention.query_key_norm.weight.zero_()
    metrics = look(model)
    assert all(layer.entropy_share == pytest.approx(1.0) for layer in metrics.attention)
    monitor = build_monitor()
    monitor.remember_start(metrics)
    assert monitor.judge(metrics) == ()


def test_too_few_cells_are_not_judged(model):
    monitor = start(model)
    say_one_code(model)
    metrics = look(model, build_probe(MIN_POSITIONS // 2 - 1), one_code)
    assert monitor.judge(metrics) == ()
    unjudged = monitor.unjudged(metrics)
    assert [(check.kind, check.place) for check in unjudged] == [
        (kind, f"codebook {k}") for k in range(K) for kind in KINDS[:3]
    ]
    assert f"only 62 cells were looked at, {MIN_POSITIONS} are needed" in unjudged[0].reason


def test_music_of_few_codes_is_not_judged_by_their_number(model):
    """Of 8 true codes one is already more than the tenth that is asked for."""
    monitor = start(model)
    say_one_code(model)
    metrics = look(model, build_probe(num_codes=8), one_code)
    assert {finding.kind for finding in monitor.judge(metrics)} == {"entropy"}
    unjudged = {check.kind: check.reason for check in monitor.unjudged(metrics)}
    assert unjudged.keys() == {"usage", "generated_usage"}
    assert "only 8 codes" in unjudged["usage"]


def test_silence_has_no_variety_to_lose(model):
    metrics = look(model, build_probe(num_codes=1), one_code)
    monitor = start(model)
    say_one_code(model)
    assert monitor.judge(metrics) == ()
    assert {check.kind for check in monitor.unjudged(metrics)} == set(KINDS[:3])


def test_attention_without_its_start_is_not_judged(model):
    monitor = build_monitor()
    metrics = look(model)
    assert monitor.judge(metrics) == ()
    assert [check.kind for check in monitor.unjudged(metrics)] == ["attention"] * 2


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
    assert monitor.judge(metrics) == ()
    assert monitor.unjudged(metrics) == ()


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


def test_a_finding_says_what_may_help_and_what_did_not(model):
    say_one_code(model)
    for finding in build_monitor().judge(look(model, generate_codes=one_code)):
        event = finding.event(update=40).line()
        assert event["event"] == "collapse"
        assert event["place"] in event["reason"]
        assert f"{finding.value:.3f}" in event["reason"]
        assert "; but in one earlier system" in event["reason"]
        assert "train." in event["reason"]
        assert "\n" not in event["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_finding_has_a_remedy(kind):
    assert len(Finding(kind, "layer 0", 0.9, 0.7).reason) > 100


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
    assert resumed.unjudged(look(model)) == ()


@pytest.mark.parametrize("lost", ["initial_attention", "found"])
def test_a_checkpoint_that_forgot_is_refused(lost):
    state = build_monitor().state()
    del state[lost]
    with pytest.raises(CheckpointMismatchError, match=f"memory of collapse lacks {lost}"):
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


def test_attention_that_moves_less_than_asked_for_is_not_flagged():
    use = CodeUse((), (), ())
    monitor = build_monitor()
    shares = {"start": 0.9, "near": 0.25, "far": 0.15}
    metrics = {
        name: CollapseMetrics(
            PredictionUse(use, use, use, ()), use, None, None, (LayerAttention(share, 1.0),)
        )
        for name, share in shares.items()
    }
    monitor.remember_start(metrics["start"])
    assert monitor.judge(metrics["near"]) == ()
    assert [finding.value for finding in monitor.judge(metrics["far"])] == [pytest.approx(0.75)]
