"""Laws of the stability controller: what it refuses, what it must not, and how that ends."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import CheckpointMismatchError
from melodac.training.config import StabilityConfig
from melodac.training.guards.stability import StabilityController, divergence

CONFIG = StabilityConfig(
    window=32,
    sigma=8.0,
    max_skips_in_a_row=5,
    max_skip_frac=0.25,
    max_rollbacks=3,
    rollback_learning_rate_ratio=0.5,
    clip_frac_alarm=0.9,
    update_ratio_alarm=0.1,
)
CLIP_NORM = 0.4
NOT_FINITE = [math.nan, math.inf, -math.inf]
HISTORY = [(6.9 + 0.03 * math.sin(7 * n), 0.3 + 0.05 * math.cos(5 * n)) for n in range(40)]

noise = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=150)


def build(history=HISTORY, **changes):
    controller = StabilityController(CONFIG.model_copy(update=changes), clip_norm=CLIP_NORM)
    for update, (loss, norm) in enumerate(history, 1):
        assert controller.judge(loss, norm).verdict == "accept"
        controller.accepted(update, is_clipped=False, update_ratio=0.001)
    return controller


def play(controller, losses_and_norms):
    """What a trainer does, with going back; all that was decided and said."""
    heard = []
    for update, (loss, norm) in enumerate(losses_and_norms, 1):
        judgement = controller.judge(loss, norm)
        heard.append(judgement)
        if judgement.verdict == "accept":
            heard += controller.accepted(update, is_clipped=norm > 0.4, update_ratio=0.01 * norm)
        elif judgement.verdict == "roll_back":
            heard.append(controller.rolled_back(update, to=0))
        elif judgement.verdict == "stop":
            return heard
    return heard


def verdicts(heard):
    return [item.verdict for item in heard if hasattr(item, "verdict")]


@given(noise, st.floats(0.0, 0.1), st.floats(0.5, 8.0))
def test_bounded_noise_around_any_level_is_never_refused(deviations, spread, level):
    """Noise up to 0.3 nats and a factor of e^0.3 lies within 8 of the least deviations."""
    controller = StabilityController(CONFIG, clip_norm=CLIP_NORM)
    curve = [(level + spread * a, math.exp(spread * b)) for a, b in deviations]
    assert set(verdicts(play(controller, curve))) == {"accept"}


@given(noise, st.floats(0.0, 0.05))
def test_a_falling_loss_is_never_refused(deviations, fall):
    controller = StabilityController(CONFIG, clip_norm=CLIP_NORM)
    curve = [(7 - fall * n + 0.1 * a, math.exp(0.1 * b)) for n, (a, b) in enumerate(deviations)]
    assert set(verdicts(play(controller, curve))) == {"accept"}


@pytest.mark.parametrize("poison", NOT_FINITE)
@pytest.mark.parametrize("history", [[], HISTORY[:1], HISTORY])
@pytest.mark.parametrize("sigma", [0.0, 8.0])
def test_what_is_not_finite_is_always_refused(history, poison, sigma):
    for loss, norm in ((poison, 0.3), (6.9, poison), (poison, poison)):
        judgement = build(history, sigma=sigma).judge(loss, norm)
        assert judgement.verdict == "skip"
        assert judgement.reason.startswith("loss is ")


@given(st.integers(1, 60), st.sampled_from(["loss", "norm", "both"]))
def test_a_thousandfold_is_refused_from_the_second_update_on(length, what):
    controller = build((HISTORY * 2)[:length])
    loss = 6900.0 if what != "norm" else 6.9
    norm = 300.0 if what != "loss" else 0.3
    assert controller.judge(loss, norm).verdict == "skip"


def test_a_thousandfold_loss_is_refused_at_the_first_update():
    judgement = StabilityController(CONFIG, clip_norm=CLIP_NORM).judge(6900.0, 300.0)
    assert judgement == ("skip", "loss 6900 nats is above 100, more than any model has")


def test_no_sigma_refuses_only_what_is_not_finite():
    controller = build(sigma=0.0)
    assert controller.judge(6900.0, 1e9).verdict == "accept"
    assert controller.judge(math.nan, 1.0).verdict == "skip"


@pytest.mark.parametrize("poison", [*NOT_FINITE, 7000.0])
def test_what_is_refused_never_moves_what_the_next_is_judged_by(poison):
    """max(1e-6, nan) is 1e-6: one NaN made every later batch an outlier in an earlier system."""
    controller = build()
    before = controller.state()
    assert controller.judge(poison, poison).verdict == "skip"
    after = controller.state()
    for key in ("losses", "log_norms", "is_clipped", "lowest", "alarms"):
        assert after[key] == before[key]
    assert not controller.is_healthy
    assert controller.judge(*HISTORY[0]).verdict == "accept"
    assert controller.is_healthy
    assert controller.judge(poison, poison).verdict == "skip"


def test_a_rise_counts_the_same_at_any_level():
    """A factor of 5 never triggered before the blow-up: the loss is a logarithm already."""
    for level in (0.01, 1.0, 6.9, 22.9):
        history = [(level + loss - 6.9, norm) for loss, norm in HISTORY]
        controller = build(history)
        assert controller.judge(level + 0.5, 0.3).verdict == "accept"
        assert controller.judge(level + 1.0, 0.3).verdict == "skip"


def test_the_gradient_norm_is_judged_by_its_logarithm():
    for level in (1.0, 100.0):
        controller = build([(loss, level * norm) for loss, norm in HISTORY])
        assert controller.judge(6.9, level * 0.3 * 10).verdict == "accept"
        assert controller.judge(6.9, level * 0.3 * 50).verdict == "skip"


def build_memorised(median=0.001):
    """A model that knows its windows by heart: tiny losses, tiny gradients, hardly any noise."""
    return build([(median * loss, median * norm) for loss, norm in HISTORY])


@given(st.lists(st.floats(0.0, CLIP_NORM), min_size=1, max_size=100), st.floats(1e-9, 1.0))
def test_a_gradient_that_is_not_clipped_is_never_an_outlier(norms, level):
    """0.13 was refused where the median was 0.001, again and again, and a sound gate ended."""
    controller = build([(loss, level * norm) for loss, norm in HISTORY])
    assert set(verdicts(play(controller, [(6.9, norm) for norm in norms]))) == {"accept"}


def test_a_gradient_a_little_above_the_clip_is_no_outlier_of_a_memorised_model():
    """All of them are used at the same length, so one that is hardly shortened does no harm."""
    controller = build_memorised()
    assert controller.judge(0.006, 5 * CLIP_NORM).verdict == "accept"
    assert controller.judge(0.006, 50 * CLIP_NORM).verdict == "skip"


def test_a_past_of_few_updates_does_not_make_a_gradient_below_the_clip_a_leap():
    controller = build([(6.9, 1e-6)])
    assert controller.judge(6.9, CLIP_NORM).verdict == "accept"
    assert controller.judge(6.9, 200 * CLIP_NORM).verdict == "skip"


def test_one_window_that_a_memorised_model_does_not_know_is_no_fault():
    controller = build_memorised()
    assert controller.judge(0.05, 0.13).verdict == "accept"
    assert controller.judge(0.5, 0.13).verdict == "accept"
    assert controller.judge(7.0, 0.13).verdict == "skip"


def test_low_values_are_never_outliers():
    assert build().judge(0.0, 0.0).verdict == "accept"


def test_refused_updates_in_a_row_lead_back_and_then_to_a_stop():
    heard = play(build(), [(math.nan, 0.3)] * 100)
    row = ["skip"] * 4 + ["roll_back"]
    assert verdicts(heard) == row * 3 + ["skip"] * 4 + ["stop"]
    assert heard[-1].reason.endswith("5 updates in a row are refused")


def test_too_many_refused_among_accepted_lead_back():
    heard = play(build(), ([(math.nan, 0.3)] * 2 + HISTORY[:2]) * 20)
    assert verdicts(heard).index("roll_back") == verdicts(heard)[:17].count("accept") + 8
    reason = next(item.reason for item in heard if item[0] == "roll_back")
    assert reason.endswith("9 of the last 32 updates are refused")


@given(
    st.lists(
        st.tuples(st.sampled_from([6.9, 7.0, 9.0, 7e3, math.nan]), st.sampled_from([0.3, 1e3])),
        max_size=300,
    )
)
def test_the_number_of_rollbacks_is_bounded_whatever_comes(curve):
    heard = verdicts(play(StabilityController(CONFIG, clip_norm=CLIP_NORM), curve))
    assert heard.count("roll_back") <= CONFIG.max_rollbacks
    assert "stop" not in heard or heard.count("roll_back") == CONFIG.max_rollbacks


def test_every_rollback_lowers_the_learning_rate():
    controller = build()
    scales = [controller.learning_rate_scale]
    for update in (50, 60, 70):
        event = controller.rolled_back(update, to=40)
        scales.append(controller.learning_rate_scale)
        assert event.line()["learning_rate_scale"] == scales[-1]
        assert event.line()["to"] == 40
    assert scales == [1.0, 0.5, 0.25, 0.125]


def test_a_lasting_shift_of_level_costs_one_rollback_and_no_more():
    heard = verdicts(play(build(), [(9.5, 0.3)] * 100))
    assert heard == ["skip"] * 4 + ["roll_back"] + ["accept"] * 95


def test_another_context_may_have_another_level():
    controller = build()
    controller.context_changed()
    assert set(verdicts(play(controller, [(9.5, 3.0)] * 40))) == {"accept"}
    assert controller.judge(math.nan, 3.0).verdict == "skip"


def test_another_context_does_not_hide_a_burst():
    controller = build()
    for _ in range(4):
        controller.judge(math.nan, 0.3)
    controller.context_changed()
    assert controller.judge(math.nan, 0.3).verdict == "roll_back"


def test_the_next_target_lies_further_back_until_a_window_is_accepted():
    controller = build()
    assert controller.rollback_below is None
    controller.rolled_back(50, to=40)
    for update in range(32):
        assert controller.rollback_below == 40
        controller.judge(6.9, 0.3)
        controller.accepted(50 + update, is_clipped=False, update_ratio=0.0)
    assert controller.rollback_below is None


def test_an_overflow_of_the_loss_scale_is_skipped_but_not_counted():
    controller = build()
    before = controller.state()
    for halvings in range(16):
        judgement = controller.judge(6.9, math.inf, loss_scale=65536.0 / 2**halvings)
        assert judgement.verdict == "skip"
    assert controller.state() == before
    assert verdicts(play(controller, [(6.9, math.inf)] * 5))[-1] == "roll_back"


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_loss_scale():
    controller = build()
    assert [controller.judge(math.nan, math.nan, loss_scale=1024.0).verdict for _ in range(5)] == [
        *["skip"] * 4,
        "roll_back",
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([6.9, 7.05, 7.5, 9.0, 7e3, math.nan]),
            st.floats(1e-3, 1e3) | st.sampled_from([math.inf, 0.0]),
        ),
        max_size=120,
    ),
    st.integers(0, 120),
)
def test_a_restored_controller_goes_on_as_if_nothing_had_happened(curve, stop):
    whole = StabilityController(CONFIG, clip_norm=CLIP_NORM)
    expected = play(whole, curve[:stop]) + play(whole, curve[stop:])
    first = StabilityController(CONFIG, clip_norm=CLIP_NORM)
    heard = play(first, curve[:stop])
    second = StabilityController(CONFIG, clip_norm=CLIP_NORM)
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert second.state() == first.state()
    assert heard + play(second, curve[stop:]) == expected
    assert second.state() == whole.state()


@pytest.mark.parametrize("key", sorted(StabilityController(CONFIG, clip_norm=CLIP_NORM).state()))
def test_a_state_that_lacks_an_entry_is_refused_by_name(key):
    state = build().state()
    del state[key]
    with pytest.raises(CheckpointMismatchError, match=f"{key}: Field required"):
        build().restore(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [("losses", [math.nan]), ("rollbacks", -1), ("is_skipped", [0]), ("other", 1)],
)
def test_a_state_that_was_not_written_by_it_is_refused_by_name(key, value):
    with pytest.raises(CheckpointMismatchError, match=key):
        build().restore(build().state() | {key: value})


def test_the_last_error_says_what_happened_and_what_to_do():
    judgement = play(build(max_rollbacks=0), [(math.nan, 0.3)] * 5)[-1]
    message = str(divergence(45, judgement.reason, rollbacks=0))
    assert "update 45 is refused" in message
    assert "loss is nan, gradient norm is 0.3; 5 updates in a row are refused" in message
    assert "lower train.learning_rate" in message
