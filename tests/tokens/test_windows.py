"""Laws of windows: inside the track, every frame covered, order a function of (seed, epoch)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import EmptySplitError, TokenError
from melodac.tokens.windows import (
    coverage,
    evaluation_windows,
    num_training_windows,
    training_windows,
)
from tests.reference.windows import times_counted

track_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8)
window_frames = st.integers(1, 20)
seeds = st.integers(0, 2**63)


def rows_of(table):
    return [tuple(table[row]) for row in range(len(table))]


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_every_frame_is_covered_every_epoch(lengths, frames, seed, is_fixed):
    for epoch in range(3):
        table = training_windows(lengths, frames, seed, epoch, is_fixed=is_fixed)
        assert min(min(track) for track in times_counted(table, lengths)) >= 1


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_no_window_leaves_its_track(lengths, frames, seed, is_fixed):
    table = training_windows(lengths, frames, seed, epoch=0, is_fixed=is_fixed)
    for track, start, num_frames in rows_of(table):
        assert 0 <= start <= max(lengths[track] - frames, 0)
        assert num_frames == min(frames, lengths[track])
        assert start + num_frames <= lengths[track]


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_every_epoch_has_the_same_number_of_windows(lengths, frames, seed, is_fixed):
    expected = num_training_windows(lengths, frames, is_fixed=is_fixed)
    for epoch in range(4):
        assert len(training_windows(lengths, frames, seed, epoch, is_fixed=is_fixed)) == expected


@given(length=st.integers(1, 400), frames=window_frames)
def test_an_epoch_has_at_most_one_window_more_than_the_fewest_possible(length, frames):
    fewest = num_training_windows([length], frames, is_fixed=True)
    assert fewest == -(-length // frames)
    assert num_training_windows([length], frames) <= fewest + 1


@given(lengths=track_lengths, frames=window_frames, seed=seeds)
def test_epoch_is_a_function_of_seed_and_number(lengths, frames, seed):
    once = rows_of(training_windows(lengths, frames, seed, epoch=7))
    assert once == rows_of(training_windows(lengths, frames, seed, epoch=7))


@given(lengths=track_lengths, frames=window_frames, seed=seeds, cut=st.integers(0, 500))
def test_a_prefix_and_its_rest_are_the_whole(lengths, frames, seed, cut):
    table = training_windows(lengths, frames, seed, epoch=1)
    assert rows_of(table.take(slice(0, cut))) + rows_of(table.take(slice(cut, None))) == rows_of(
        table
    )


def test_seed_and_epoch_each_change_the_order_and_the_offsets():
    lengths = [1000, 700, 900]
    first = training_windows(lengths, 16, seed=3, epoch=0)
    for other in (
        training_windows(lengths, 16, seed=4, epoch=0),
        training_windows(lengths, 16, seed=3, epoch=1),
        training_windows(lengths, 16, seed=0, epoch=3),
    ):
        assert rows_of(other) != rows_of(first)
        assert set(rows_of(other)) != set(rows_of(first))


@given(lengths=track_lengths, frames=window_frames, seed=seeds)
def test_fixed_windows_are_the_same_set_in_every_epoch(lengths, frames, seed):
    first = training_windows(lengths, frames, seed, epoch=0, is_fixed=True)
    second = training_windows(lengths, frames, seed, epoch=1, is_fixed=True)
    assert sorted(rows_of(first)) == sorted(rows_of(second))


def test_many_epochs_reach_every_window():
    tables = [training_windows([100, 5], 16, seed=0, epoch=epoch) for epoch in range(200)]
    reached = coverage(tables, [100, 5], 16)
    assert reached.num_distinct == reached.num_possible == 85 + 1


@given(lengths=track_lengths, frames=window_frames)
def test_evaluation_counts_every_frame_exactly_once(lengths, frames):
    table = evaluation_windows(lengths, frames)
    assert times_counted(table, lengths) == [[1] * length for length in lengths]
    assert rows_of(table) == sorted(rows_of(table))


@given(lengths=track_lengths, frames=window_frames, seed=seeds, kept=st.integers(0, 6))
def test_coverage_matches_the_loop(lengths, frames, seed, kept):
    table = training_windows(lengths, frames, seed, epoch=0).take(slice(0, kept))
    found = coverage([table], lengths, frames)
    times = times_counted(table, lengths)
    assert found.num_frames_seen == sum(seen > 0 for track in times for seen in track)
    assert found.num_frames == sum(lengths)
    assert found.num_distinct == len({row[:2] for row in rows_of(table)})
    assert found.num_possible == sum(max(length - frames, 0) + 1 for length in lengths)


def test_no_windows_cover_nothing():
    assert coverage([], [4, 9], 4) == (0, 13, 0, 7)


def test_rows_can_be_taken_in_any_order():
    table = evaluation_windows([10], 4)
    assert rows_of(table.take(np.array([2, 0]))) == [(0, 8, 2), (0, 0, 4)]


def test_an_empty_split_is_refused():
    with pytest.raises(EmptySplitError, match="no track to take windows from"):
        training_windows([], 4, seed=0, epoch=0)
    with pytest.raises(EmptySplitError, match="no track to take windows from"):
        evaluation_windows([], 4)


def test_a_track_without_frames_is_refused():
    with pytest.raises(TokenError, match="at least 1 frame, track 1 has 0"):
        training_windows([4, 0], 4, seed=0, epoch=0)


def test_a_window_without_frames_is_refused():
    with pytest.raises(TokenError, match="window needs at least 1 frame, got 0"):
        evaluation_windows([4], 0)


def test_a_negative_seed_is_refused():
    with pytest.raises(TokenError, match="got seed -1 and epoch 2"):
        training_windows([4], 4, seed=-1, epoch=2)
