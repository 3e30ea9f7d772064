"""Laws of alarms and events: said once an episode, as a line that any JSON reader takes."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.training.config import StabilityConfig
from melodac.training.events import Event, spell_finite
from melodac.training.guards.stability import Alarms, Judgement, StabilityController


@pytest.fixture
def controller():
    return StabilityController(
        StabilityConfig(
            window=16,
            sigma=8.0,
            max_skips_in_a_row=5,
            max_skip_frac=0.5,
            max_rollbacks=3,
            rollback_learning_rate_ratio=0.5,
            clip_frac_alarm=0.75,
            update_ratio_alarm=0.1,
        ),
        clip_norm=0.4,
    )


def take(controller, updates, *, loss=6.9, is_clipped=False, update_ratio=0.01):
    """Accept updates; names of the alarms that were raised."""
    raised = []
    for update in updates:
        assert controller.judge(loss, 0.3).verdict == "accept"
        events = controller.accepted(update, is_clipped=is_clipped, update_ratio=update_ratio)
        raised += [event.values["alarm"] for event in events]
    return raised


def test_continuous_clipping_is_said_once(controller):
    assert take(controller, range(15), is_clipped=True) == []
    assert take(controller, range(15, 60), is_clipped=True) == ["clip_frac"]


def test_clipping_that_ends_and_begins_again_is_said_again(controller):
    assert take(controller, range(20), is_clipped=True) == ["clip_frac"]
    assert take(controller, range(20, 40)) == []
    assert take(controller, range(40, 60), is_clipped=True) == ["clip_frac"]


def test_many_refused_updates_are_said_before_the_run_goes_back(controller):
    take(controller, range(16))
    raised = []
    for update in range(16, 32, 2):
        assert controller.judge(math.nan, 1.0).verdict == "skip"
        raised += take(controller, [update])
    assert raised == ["skip_frac"]
    assert controller.rollbacks == 0


def test_an_update_that_is_large_beside_the_weights_is_said_once(controller):
    assert take(controller, range(5), update_ratio=0.2) == ["update_ratio"]


def test_an_update_that_is_not_measured_ends_no_alarm(controller):
    assert take(controller, [1], update_ratio=0.2) == ["update_ratio"]
    assert take(controller, [2], update_ratio=None) == []
    assert take(controller, [3], update_ratio=0.2) == []


def test_a_loss_that_creeps_up_is_said_though_no_update_is_refused(controller):
    """The divergence that no single update shows: 0.02 nats an update."""
    raised = []
    for update in range(200):
        raised += take(controller, [update], loss=5.0 + 0.02 * update)
    assert raised == ["loss_rise"]
    assert take(controller, range(16), loss=5.0) == []


def test_another_context_forgets_the_lowest_loss(controller):
    take(controller, range(16), loss=5.0)
    controller.context_changed()
    assert take(controller, range(40), loss=6.0) == []


@given(st.lists(st.floats(0.0, 2.0), max_size=60), st.floats(0.01, 1.0))
def test_an_alarm_rings_again_only_after_it_fell_well_below_its_limit(values, limit):
    alarms = Alarms()
    raised = [n for n, value in enumerate(values) if alarms.check(n, "clip_frac", value, limit)]
    for one, other in pairwise(raised):
        assert min(values[one:other]) < 0.8 * limit
    assert all(values[n] > limit for n in raised)
    assert bool(raised) == any(value > limit for value in values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.5])
def test_every_event_is_plain_json(value):
    event = Judgement("skip", "too high").event(7, value, value)
    line = json.loads(json.dumps(event.line(), allow_nan=False))
    assert line["event"] == "skip"
    assert line["update"] == 7
    assert line["verdict"] == "skip"
    assert line["reason"] == "update refused: too high"
    assert float(line["loss"]) == value or math.isnan(value)


def test_finite_metrics_stay_as_they_are():
    metrics = {"update": 1, "loss": 0.1, "is_clipped": True, "name": "nan"}
    assert spell_finite(metrics) == metrics


def test_an_event_needs_no_numbers():
    assert Event("audit", 0, "ok").line() == {"event": "audit", "update": 0, "reason": "ok"}
