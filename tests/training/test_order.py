"""Laws of the window order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.tokens.array import array_of_tracks
from melodac.tokens.windows import ANYWHERE, Bars, Starts
from melodac.training.order import WindowOrder


def rows(table):
    return [tuple(table[row]) for row in range(len(table))]


def build_order(lengths=(40, 23, 5), seed=0, starts=ANYWHERE):
    array = array_of_tracks([
        (str(i), np.zeros((length, 1), dtype=np.uint16)) for i, length in enumerate(lengths)
    ])
    return WindowOrder(array, 8, seed, starts=starts)


@settings(max_examples=50)
@given(first=st.integers(0, 60), counts=st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_parts_join_to_the_whole_from_any_start(first, counts):
    parts, position, order = [], first, build_order()
    for count in counts:
        parts += rows(order.take(position, count))
        position += count
    assert parts == rows(build_order().take(first, sum(counts)))


def test_every_epoch_covers_every_frame():
    order = build_order()
    for epoch in range(3):
        table = order.take(epoch * order.windows_per_epoch, order.windows_per_epoch)
        seen = {
            (window[0], window[1] + frame) for window in rows(table) for frame in range(window[2])
        }
        assert seen == {(t, f) for t, length in enumerate((40, 23, 5)) for f in range(length)}


def test_epochs_and_seeds_differ():
    order = build_order()
    one = order.windows_per_epoch
    assert rows(order.take(0, one)) != rows(order.take(one, one))
    assert rows(order.take(0, one)) != rows(build_order(seed=1).take(0, one))


def test_windows_start_where_they_may():
    order = build_order(starts=Starts(bars=(Bars(2.0, 6.0), None, Bars(4.0, 9.0))))
    found = rows(order.take(0, 100 * order.windows_per_epoch))
    assert {row[1] for row in found if row[0] == 0} == {2, 8, 14, 20, 26, 32}
    assert {row[1] for row in found if row[0] == 1} == set(range(16))
    assert {row[1:] for row in found if row[0] == 2} == {(4, 1)}


def test_fixed_windows_change_their_order_only():
    order = build_order(starts=Starts(is_fixed=True))
    first, second = (rows(order.take(e * order.windows_per_epoch, 9)) for e in range(2))
    assert sorted(first) == sorted(second)
    assert first != second
