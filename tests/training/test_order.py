"""Laws of the window order."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melodac.errors import ConfigError
from melodac.tokens.array import array_of_tracks
from melodac.tokens.windows import ANYWHERE, Bars, Starts, coverage
from melodac.training.data import WindowOrder

LENGTHS = (40, 23, 5)
STAGES = ((1, 4), (4, 8), (6, 5))


def rows(table):
    return [tuple(table[row]) for row in range(len(table))]


@pytest.fixture
def build_order(train_config):
    def build(seed=0, starts=ANYWHERE, context=(), size=4, updates=200, lengths=LENGTHS):
        array = array_of_tracks([
            (str(i), np.zeros((length, 1), dtype=np.uint16)) for i, length in enumerate(lengths)
        ])
        changes = {
            "seed": seed,
            "context": context,
            "windows_per_update": size,
            "updates": updates,
        }
        return WindowOrder(array, 8, train_config.model_copy(update=changes), starts=starts)

    return build


def read(order, first, last):
    return [row for update in range(first, last + 1) for row in rows(order.take(update).table)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(updates=st.lists(st.integers(1, 60), min_size=1, max_size=6), curriculum=st.booleans())
def test_an_update_reads_the_same_whatever_was_read_before(build_order, updates, curriculum):
    context = STAGES if curriculum else ()
    order = build_order(context=context)
    for update in updates:
        found, alone = order.take(update), build_order(context=context).take(update)
        assert rows(found.table) == rows(alone.table)
        assert found.frames == alone.frames


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 30))
def test_the_windows_do_not_depend_on_how_many_an_update_takes(build_order, size):
    count = 3 * size
    one_by_one = build_order(size=1)
    assert read(build_order(size=size), 1, 3) == read(one_by_one, 1, count)


def epoch_size(order):
    return round(1 / order.epoch_after(1))


def test_every_epoch_covers_every_frame(build_order):
    order = build_order(size=1)
    size = epoch_size(order)
    for epoch in range(3):
        windows = read(order, epoch * size + 1, (epoch + 1) * size)
        seen = {(window[0], window[1] + frame) for window in windows for frame in range(window[2])}
        assert seen == {(t, f) for t, length in enumerate(LENGTHS) for f in range(length)}


def test_epochs_and_seeds_differ(build_order):
    order = build_order(size=1)
    one = epoch_size(order)
    assert read(order, 1, one) != read(order, one + 1, 2 * one)
    assert read(order, 1, one) != read(build_order(seed=1, size=1), 1, one)


def test_windows_start_where_they_may(build_order):
    order = build_order(starts=Starts(bars=(Bars(2.0, 6.0), None, Bars(4.0, 9.0))), updates=600)
    found = read(order, 1, 600)
    assert {row[1] for row in found if row[0] == 0} == {2, 8, 14, 20, 26, 32}
    assert {row[1] for row in found if row[0] == 1} == set(range(16))
    assert {row[1:] for row in found if row[0] == 2} == {(4, 1)}


def test_fixed_windows_change_their_order_only(build_order):
    order = build_order(starts=Starts(is_fixed=True), size=1)
    one = epoch_size(order)
    first, second = read(order, 1, one), read(order, one + 1, 2 * one)
    assert sorted(first) == sorted(second)
    assert first != second


def test_each_stage_cuts_windows_of_its_own_length(build_order):
    order = build_order(context=STAGES)
    assert [order.take(update).frames for update in range(1, 8)] == [4, 4, 4, 8, 8, 5, 5]
    for update in range(1, 40):
        found = order.take(update)
        assert len(found.table) == 4
        assert int(found.table.num_frames.max()) <= found.frames


def test_each_stage_begins_an_epoch_of_its_own(build_order):
    """And equal stages are not each other's repetition."""
    order = build_order(context=((1, 8), (20, 8)), size=1)
    later = build_order(size=1)
    size = epoch_size(later)
    first, second = read(order, 1, size), read(order, 20, 19 + size)
    assert first != second
    seen = {(track, start + frame) for track, start, count in second for frame in range(count)}
    assert len(seen) == sum(LENGTHS)


def test_the_first_stage_reads_what_a_run_without_stages_reads(build_order):
    assert read(build_order(context=((1, 8), (9, 4))), 1, 8) == read(build_order(), 1, 8)


def test_epochs_add_up_over_the_stages(build_order):
    order, parts = build_order(context=STAGES), []
    for frames, updates in ((4, 3), (8, 2), (5, 10)):
        parts.append(build_order(context=((1, frames),)).epoch_after(updates))
    assert order.epoch_after(15) == pytest.approx(sum(parts))
    assert order.epoch_after(0) == 0.0
    assert order.epoch_after(2) == pytest.approx(parts[0] * 2 / 3)


def test_a_stage_longer_than_the_windows_of_the_index_is_refused(build_order):
    with pytest.raises(ConfigError, match="16 frames, the index cuts windows of 8"):
        build_order(context=((1, 4), (5, 16)))


@pytest.mark.parametrize("update", [0, 201])
def test_an_update_outside_the_run_is_refused(build_order, update):
    with pytest.raises(ValueError, match=f"between 1 and 200: got {update}"):
        build_order().take(update)


def test_an_epoch_reads_all_music(build_order):
    order = build_order()
    for update in range(1, 60):
        if order.epoch_after(update) >= 1:
            assert order.coverage_after(update).frames_read_share == 1.0


def test_windows_that_never_move_show_in_the_numbers(build_order):
    """Whatever the cause: half of what two epochs read was read twice."""
    lengths, update = (400, 231), 39
    order = build_order(lengths=lengths)
    fixed = build_order(lengths=lengths, starts=Starts(is_fixed=True))
    assert 1.8 < order.epoch_after(update) <= fixed.epoch_after(update) <= 2
    anywhere, same = order.coverage_after(update), fixed.coverage_after(update)
    assert anywhere.windows_distinct > 0.8 * anywhere.windows_read
    assert same.windows_distinct < 0.6 * same.windows_read


@pytest.mark.parametrize("context", [(), STAGES])
def test_what_is_counted_is_what_the_index_counts(build_order, context):
    order = build_order(context=context)
    for update in (1, 2, 3):
        read = [order.take(u) for u in range(1, update + 1)]
        expected = coverage([one.table for one in read], LENGTHS, read[-1].frames)
        found = order.coverage_after(update)
        assert found.windows_distinct == expected.num_distinct
        assert found.frames_read_share == expected.num_frames_seen / expected.num_frames


def test_counting_looks_back_two_epochs_at_most(build_order):
    order = build_order()
    longest = 2 * epoch_size(build_order(size=1))
    assert all(order.coverage_after(u).windows_read <= longest for u in range(1, 100))


def test_music_that_is_not_read_shows_as_a_share_below_one(build_order):
    order = build_order(size=1)
    assert order.coverage_after(1).frames_read_share == pytest.approx(8 / 68, abs=0.1)


def test_what_a_stage_read_is_counted_from_its_own_first_update(build_order):
    order = build_order(context=STAGES)
    assert order.coverage_after(6).windows_read == 4


def test_reading_ahead_in_another_thread_changes_nothing(build_order):
    expected = [rows(build_order().take(update).table) for update in range(1, 120)]
    order = build_order()

    def look(_):
        return [order.coverage_after(update) for update in range(1, 120)]

    with ThreadPoolExecutor(3) as pool:
        looking = pool.map(look, range(2))
        found = [rows(order.take(update).table) for update in range(1, 120)]
        one, other = looking
    assert found == expected
    assert one == other
