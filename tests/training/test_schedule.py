"""Laws of the learning rate schedule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.training.schedule import learning_rate_at


@st.composite
def schedules(draw):
    updates = draw(st.integers(1, 400))
    return {
        "peak": draw(st.floats(1e-6, 1.0)),
        "min_ratio": draw(st.floats(0.0, 1.0)),
        "warmup_updates": draw(st.integers(0, updates - 1)),
        "updates": updates,
    }


def curve(schedule):
    return [learning_rate_at(u, **schedule) for u in range(1, schedule["updates"] + 1)]


@given(schedules())
def test_warmup_rises_to_the_peak(schedule):
    warmup = curve(schedule)[: schedule["warmup_updates"]]
    assert warmup == sorted(warmup)
    assert not warmup or warmup[-1] == schedule["peak"]


@given(schedules())
def test_rate_never_rises_after_warmup(schedule):
    rest = curve(schedule)[schedule["warmup_updates"] :]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(rest))


@given(schedules())
def test_last_update_has_the_floor_rate(schedule):
    assert curve(schedule)[-1] == pytest.approx(schedule["peak"] * schedule["min_ratio"])


@given(schedules())
def test_every_rate_lies_between_zero_and_the_peak(schedule):
    assert all(0.0 <= rate <= schedule["peak"] * (1 + 1e-12) for rate in curve(schedule))


@pytest.mark.parametrize("update", [0, 11])
def test_an_update_outside_the_run_is_refused(update):
    with pytest.raises(ValueError, match=f"between 1 and 10: got {update}"):
        learning_rate_at(update, peak=1.0, min_ratio=0.1, warmup_updates=2, updates=10)
