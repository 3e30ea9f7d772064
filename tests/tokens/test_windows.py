"""Laws of windows: inside the track, every frame covered, order a function of (seed, epoch)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import EmptySplitError, TokenError
from melodac.tokens.windows import (
    Bars,
    Starts,
    coverage,
    evaluation_windows,
    num_training_windows,
    training_windows,
)
from tests.reference.windows import bar_starts, times_counted

track_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8)
window_frames = st.integers(1, 20)
seeds = st.integers(0, 2**63)
FIXED = Starts(is_fixed=True)


def rows_of(table):
    return [tuple(table[row]) for row in range(len(table))]


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_every_frame_is_covered_every_epoch(lengths, frames, seed, is_fixed):
    for epoch in range(3):
        table = training_windows(lengths, frames, seed, epoch, starts=Starts(is_fixed=is_fixed))
        assert min(min(track) for track in times_counted(table, lengths)) >= 1


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_no_window_leaves_its_track(lengths, frames, seed, is_fixed):
    table = training_windows(lengths, frames, seed, epoch=0, starts=Starts(is_fixed=is_fixed))
    for track, start, num_frames in rows_of(table):
        assert 0 <= start <= max(lengths[track] - frames, 0)
        assert num_frames == min(frames, lengths[track])
        assert start + num_frames <= lengths[track]


@given(lengths=track_lengths, frames=window_frames, seed=seeds, is_fixed=st.booleans())
def test_every_epoch_has_the_same_number_of_windows(lengths, frames, seed, is_fixed):
    expected = num_training_windows(lengths, frames, starts=Starts(is_fixed=is_fixed))
    for epoch in range(4):
        assert (
            len(training_windows(lengths, frames, seed, epoch, starts=Starts(is_fixed=is_fixed)))
            == expected
        )


@given(length=st.integers(1, 400), frames=window_frames)
def test_an_epoch_has_at_most_one_window_more_than_the_fewest_possible(length, frames):
    fewest = num_training_windows([length], frames, starts=FIXED)
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
    first = training_windows(lengths, frames, seed, epoch=0, starts=FIXED)
    second = training_windows(lengths, frames, seed, epoch=1, starts=FIXED)
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


@st.composite
def barred_tracks(draw):
    """Lengths, window length and starts on bars, for some of the tracks."""
    lengths = draw(st.lists(st.integers(1, 120), min_size=1, max_size=6))
    bars = tuple(
        draw(
            st.none()
            | st.builds(Bars, st.floats(0, length - 0.51), st.floats(1, 50, exclude_min=True))
        )
        for length in lengths
    )
    return lengths, draw(window_frames), Starts(draw(st.booleans()), bars)


@given(tracks=barred_tracks(), seed=seeds)
def test_windows_of_a_track_with_bars_start_on_a_bar(tracks, seed):
    lengths, frames, starts = tracks
    table = training_windows(lengths, frames, seed, epoch=1, starts=starts)
    for track, start, num_frames in rows_of(table):
        bars = starts.bars[track]
        assert num_frames == min(frames, lengths[track] - start) >= 1
        assert bars is None or start in bar_starts(bars, lengths[track])


@given(tracks=barred_tracks(), seed=seeds)
def test_frames_without_a_window_lie_before_the_first_bar_or_in_the_rest_of_a_long_bar(
    tracks, seed
):
    lengths, frames, starts = tracks
    table = training_windows(lengths, frames, seed, epoch=0, starts=starts)
    for track, times in enumerate(times_counted(table, lengths)):
        bars = starts.bars[track]
        begins = [0] if bars is None else bar_starts(bars, lengths[track])
        longest = max((b - a for a, b in pairwise([*begins, lengths[track]])), default=0)
        if bars is None or longest <= frames:
            assert min(times[begins[0] :]) >= 1
            assert max(times[: begins[0]], default=0) == 0
        else:  # the bar's own first frames are all there is
            assert all(seen for start in begins for seen in times[start : start + frames])


@given(tracks=barred_tracks(), seed=seeds)
def test_every_epoch_with_bars_has_the_same_number_of_windows(tracks, seed):
    lengths, frames, starts = tracks
    expected = num_training_windows(lengths, frames, starts=starts)
    for epoch in range(3):
        table = training_windows(lengths, frames, seed, epoch, starts=starts)
        assert len(table) == expected


@given(tracks=barred_tracks())
def test_possible_starts_are_the_bars_up_to_the_first_that_reaches_the_end(tracks):
    lengths, frames, starts = tracks
    expected = 0
    for length, bars in zip(lengths, starts.bars, strict=True):
        begins = list(range(length)) if bars is None else bar_starts(bars, length)
        full = [start for start in begins if start + frames < length]
        expected += min(len(full) + 1, len(begins))
    assert coverage([], lengths, frames, starts=starts).num_possible == expected


def test_bars_begin_where_the_tempo_says():
    # 120 bpm in 4/4 is a bar of 2 s: 172.27 frames; the first bar line is at frame 50.5
    starts = Starts(bars=(Bars(50.5, 44100 / 512 * 2),))
    tables = [training_windows([2000], 512, 0, epoch, starts=starts) for epoch in range(40)]
    found = {row[1] for table in tables for row in rows_of(table)}
    assert found == {51, 223, 395, 567, 740, 912, 1084, 1256, 1429, 1601}


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        ((None,), "bars of 1 tracks for 2 tracks"),
        ((None, Bars(0.0, 0.5)), "track 1 of 9 frames has bars of 0.5 frames"),
        ((None, Bars(9.0, 4.0)), "from frame 9.0 on"),
        ((None, Bars(0.0, float("nan"))), "bars of nan frames"),
        ((None, Bars(0.0, float("inf"))), "bars of inf frames"),
    ],
)
def test_bars_that_do_not_fit_are_refused(bars, message):
    with pytest.raises(TokenError, match=message):
        num_training_windows([4, 9], 4, starts=Starts(bars=bars))
