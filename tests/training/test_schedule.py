"""Laws of everything that changes with the update."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melodac.errors import ConfigError
from melodac.training.config import TrainConfig
from melodac.training.schedule import context_frames_at, decayed, learning_rate_at, ramped

SCHEDULES = ("cosine", "linear", "constant", "wsd")
with_config = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def changes(draw, schedules=SCHEDULES):
    updates = draw(st.integers(1, 400))
    warmup = draw(st.integers(0, updates - 1))
    return {
        "schedule": draw(st.sampled_from(schedules)),
        "learning_rate": draw(st.floats(1e-6, 1.0)),
        "min_learning_rate_ratio": draw(st.floats(0.0, 1.0)),
        "warmup_updates": warmup,
        "decay_updates": draw(st.integers(1, updates - warmup)),
        "updates": updates,
        "context": (),
    }


@pytest.fixture
def build_config(train_config):
    """A config with changes, checked as one that was read from params.yaml."""

    def build(values):
        return TrainConfig.model_validate({**dict(train_config), **values})

    return build


def curve(config):
    return [learning_rate_at(u, config) for u in range(1, config.updates + 1)]


@with_config
@given(values=changes())
def test_the_warmup_rises_to_the_peak_and_nothing_is_above_it(build_config, values):
    config = build_config(values)
    rates = curve(config)
    warmup = rates[: config.warmup_updates]
    assert warmup == sorted(warmup)
    assert not warmup or warmup[-1] == config.learning_rate
    assert all(0.0 <= rate <= config.learning_rate for rate in rates)


@with_config
@given(values=changes())
def test_the_rate_never_rises_after_the_warmup(build_config, values):
    """No schedule can begin again: not at an epoch, not at a resume, not after its end."""
    config = build_config(values)
    rest = curve(config)[max(0, config.warmup_updates - 1) :]
    assert all(later <= earlier for earlier, later in pairwise(rest))


@with_config
@given(values=changes())
def test_the_last_update_has_exactly_the_floor(build_config, values):
    config = build_config(values)
    is_constant = config.schedule == "constant"
    floor = 1.0 if is_constant else config.min_learning_rate_ratio
    assert curve(config)[-1] == config.learning_rate * floor


@with_config
@given(values=changes(schedules=["wsd"]))
def test_wsd_stays_at_the_peak_until_its_decay(build_config, values):
    config = build_config(values)
    stable = curve(config)[config.warmup_updates : config.updates - config.decay_updates]
    assert set(stable) <= {config.learning_rate}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 1.0, 0.868, 0.55, 0.232, 0.1]),
        ("linear", [0.5, 1.0, 0.775, 0.55, 0.325, 0.1]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 0.55, 0.1]),
    ],
)
def test_every_schedule_has_its_own_curve(build_config, schedule, expected):
    config = build_config({
        "schedule": schedule,
        "learning_rate": 1.0,
        "warmup_updates": 2,
        "decay_updates": 2,
        "updates": 6,
    })
    assert [round(rate, 3) for rate in curve(config)] == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("update", [-1, 0, 13])
def test_an_update_outside_the_run_is_refused(build_config, schedule, update):
    config = build_config({"schedule": schedule})
    with pytest.raises(ValueError, match=f"between 1 and 12: got {update}"):
        learning_rate_at(update, config)


@given(start=st.floats(0.0, 10.0), updates=st.integers(1, 300))
def test_what_decays_starts_whole_and_ends_at_zero(start, updates):
    values = [decayed(start, update, updates) for update in range(1, updates + 20)]
    assert values[0] == (start if updates > 1 else 0.0)
    assert all(later <= earlier for earlier, later in pairwise(values))
    assert set(values[updates - 1 :]) == {0.0}


@given(st.floats(0.0, 10.0), st.integers(1, 10**6))
def test_what_never_decays_stays(start, update):
    assert decayed(start, update, 0) == start


@given(end=st.floats(0.0, 1.0), first=st.integers(0, 50), updates=st.integers(0, 50))
def test_what_ramps_is_zero_until_its_first_update_and_then_rises_to_its_end(end, first, updates):
    values = [ramped(end, update, first, updates) for update in range(1, 120)]
    assert set(values[:first]) <= {0.0}
    assert all(earlier <= later for earlier, later in pairwise(values))
    assert set(values[first + max(updates, 1) - 1 :]) == {end}


def test_each_stage_of_the_curriculum_begins_at_its_update(build_config):
    config = build_config({"context": ((1, 4), (3, 8), (7, 6))})
    found = [context_frames_at(update, config, 8) for update in range(1, 9)]
    assert found == [4, 4, 8, 8, 8, 8, 6, 6]


def test_without_a_curriculum_the_windows_are_those_of_the_index(build_config):
    assert context_frames_at(5, build_config({"context": ()}), 128) == 128


def test_a_stage_longer_than_the_windows_of_the_index_is_refused(build_config):
    """Also before it begins: the index alone decides how music is cropped."""
    config = build_config({"context": ((1, 4), (9, 16))})
    with pytest.raises(ConfigError, match=r"16 frames, the index cuts windows of 8.*index\.window"):
        context_frames_at(1, config, 8)
