import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.report.listening_page import BOTTOM, LEFT, RIGHT, TOP, draw_bars, draw_curve
from melodac.report.page_content import CodebookEntropy, CurvePoint

nats = st.none() | st.floats(0.0, 20.0, allow_nan=False)


def entropy(codebook=0, model=3.0, unigram=5.0, bigram=4.0):
    return CodebookEntropy(
        codebook=codebook, model_nats=model, unigram_nats=unigram, bigram_nats=bigram
    )


def coordinates(path):
    return [tuple(map(float, pair.split())) for pair in re.split("[ML]", path) if pair]


@given(points=st.lists(st.tuples(st.integers(0, 10**7), nats, nats), max_size=20))
def test_every_measured_point_is_drawn_inside_the_frame(points):
    drawing = draw_curve([
        CurvePoint(update=u, train_nats=t, validation_nats=v) for u, t, v in points
    ])
    measured = [value for _, train, validation in points for value in (train, validation)]
    if all(value is None for value in measured):
        assert drawing is None
        return
    drawn = coordinates(drawing.train_path) + coordinates(drawing.validation_path)
    assert len(drawn) == sum(value is not None for value in measured)
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in drawn)


def test_a_lower_loss_stands_lower():
    points = [CurvePoint(update=u, train_nats=n) for u, n in ((0, 6.9), (100, 4.0))]
    (first_x, first_y), (last_x, last_y) = coordinates(draw_curve(points).train_path)
    assert first_x < last_x
    assert first_y < last_y


def test_ticks_say_what_stands_beside_them():
    points = [CurvePoint(update=u, train_nats=n) for u, n in ((0, 2.0), (2000, 6.0))]
    drawing = draw_curve(points)
    ticks = {tick.text: tick.position for tick in drawing.y_ticks}
    first, last = coordinates(drawing.train_path)
    assert ticks["2"] == first[1]
    assert ticks["6"] == last[1]
    assert drawing.x_ticks[-1].text == "2,000"


def test_a_missing_train_value_breaks_the_line():
    points = [CurvePoint(update=u, train_nats=n) for u, n in enumerate([3.0, 2.9, None, 2.7])]
    assert draw_curve(points).train_path.count("M") == 2


def test_sparse_validation_is_one_line():
    points = [CurvePoint(update=u, validation_nats=n) for u, n in enumerate([3.0, None, 2.7])]
    assert draw_curve(points).validation_path.count("M") == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_gaps(value):
    drawing = draw_curve([
        CurvePoint(update=0, train_nats=3.0),
        CurvePoint(update=1, train_nats=value),
    ])
    assert len(coordinates(drawing.train_path)) == 1
    assert draw_bars([entropy(model=value)]).bars[0].model_top is None


def test_bars_share_one_scale_that_starts_at_zero():
    (first, second) = draw_bars([entropy(0, model=2.0), entropy(1, model=4.0)]).bars
    assert BOTTOM - second.model_top == pytest.approx(2 * (BOTTOM - first.model_top), abs=0.02)
    assert second.model_top == first.bigram_y


def test_bars_do_not_overlap_and_stay_inside():
    bars = draw_bars([entropy(k) for k in range(9)]).bars
    assert bars[0].mark_left >= LEFT
    assert bars[-1].mark_right <= RIGHT
    assert all(a.mark_right < b.mark_left for a, b in pairwise(bars))


def test_an_unmeasured_baseline_is_absent_and_not_counted():
    drawing = draw_bars([entropy(0), entropy(1, bigram=None), entropy(2, model=4.5)])
    assert drawing.bars[1].bigram_y is None
    assert drawing.summary == "Below the bigram baseline on 1 of 2 codebooks."


def test_nothing_measured_is_no_chart():
    assert draw_bars([entropy(0, None, None, None)]) is None
    assert draw_bars([]) is None
    assert draw_curve([]) is None
