"""Laws of batches: real frames to the last step, PAD past the end, the same cells counted."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import DelayError, TokenError
from melodac.tokens.array import array_of_tracks
from melodac.tokens.batches import counted_cells, read_batch, to_sequence
from melodac.tokens.delay import PATTERN_NAMES, apply_delay, build_pattern, cell_frames, is_code
from melodac.tokens.vocabulary import PAD
from melodac.tokens.windows import WindowTable, evaluation_windows, training_windows
from tests.reference import windows as reference

track_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=5)
window_frames = st.integers(1, 12)
specs = st.one_of(
    st.sampled_from(PATTERN_NAMES), st.lists(st.integers(0, 7), min_size=9, max_size=9)
)


@given(
    lengths=track_lengths, frames=window_frames, max_delay=st.integers(0, 9), seed=st.integers(0, 9)
)
def test_read_batch_matches_the_loop(make_array, lengths, frames, max_delay, seed):
    array = make_array(lengths)
    for table in (
        training_windows(lengths, frames, seed, epoch=0),
        evaluation_windows(lengths, frames),
    ):
        batch = read_batch(array, table, frames, max_delay)
        codes, counted = reference.read_batch(array, table, frames, max_delay)
        assert torch.equal(batch.codes, codes)
        assert torch.equal(batch.counted, counted)


@given(lengths=track_lengths, frames=window_frames)
def test_counted_frames_of_evaluation_are_all_frames(make_array, lengths, frames):
    batch = read_batch(make_array(lengths), evaluation_windows(lengths, frames), frames, 3)
    assert int(batch.counted.sum()) == sum(lengths)


@given(spec=specs, lengths=track_lengths, frames=window_frames)
def test_every_pattern_counts_each_frame_of_each_codebook_once(make_array, spec, lengths, frames):
    pattern = build_pattern(spec)
    array = make_array(lengths, num_codebooks=9)
    batch = read_batch(array, evaluation_windows(lengths, frames), frames, pattern.max_delay)
    sequence = to_sequence(batch.codes, pattern, frames)
    cells = counted_cells(batch.counted, pattern)
    assert sequence.shape == cells.shape
    assert cells.sum(dim=(0, 2)).tolist() == [sum(lengths)] * 9
    for codebook in range(9):
        counted = sequence[:, codebook][cells[:, codebook]].tolist()
        assert counted == array.values[:, codebook].tolist()


@given(spec=specs, frames=window_frames)
def test_a_window_inside_a_track_has_real_frames_to_its_last_step(make_array, spec, frames):
    pattern = build_pattern(spec)
    array = make_array([100], num_codebooks=9)
    table = evaluation_windows([100], frames).take(slice(0, 1))
    sequence = to_sequence(
        read_batch(array, table, frames, pattern.max_delay).codes, pattern, frames
    )
    assert pattern.is_flat or not (sequence == PAD).any()


@given(spec=specs, frames=window_frames)
def test_a_sequence_is_the_beginning_of_the_longer_one(make_array, spec, frames):
    pattern = build_pattern(spec)
    codes = torch.arange(9 * (frames + pattern.max_delay)).reshape(1, 9, -1)
    sequence = to_sequence(codes, pattern, frames)
    assert sequence.shape[-1] == pattern.num_steps(frames)
    assert torch.equal(sequence, apply_delay(codes, pattern)[..., : sequence.shape[-1]])


@given(spec=specs, frames=window_frames, data=st.data())
def test_counted_cells_match_the_loop(spec, frames, data):
    pattern = build_pattern(spec)
    flags = data.draw(st.lists(st.booleans(), min_size=2 * frames, max_size=2 * frames))
    counted = torch.tensor(flags).reshape(2, frames)
    cells = counted_cells(counted, pattern)
    cell_of = cell_frames(pattern, frames).tolist()
    for s, row in enumerate(cell_of):
        for k, frame in enumerate(row):
            expected = counted[:, frame] if 0 <= frame < frames else torch.tensor([False, False])
            assert torch.equal(cells[:, k, s], expected)


def test_a_counted_cell_is_a_code(make_array):
    array = make_array([30, 3], num_codebooks=9)
    pattern = build_pattern("dia")
    batch = read_batch(array, training_windows([30, 3], 8, 0, 0), 8, pattern.max_delay)
    sequence = to_sequence(batch.codes, pattern, 8)
    assert is_code(sequence[counted_cells(batch.counted, pattern)]).all()


def test_a_selection_reads_its_own_tracks(make_array):
    array = make_array([6, 9, 4])
    chosen = array.select(["track2", "track1"])
    batch = read_batch(chosen, evaluation_windows([4, 9], 9), 9, 0)
    assert batch.codes[0, :, :4].T.tolist() == array.codes(2).tolist()
    assert batch.codes[1].T.tolist() == array.codes(1).tolist()
    assert chosen.values is array.values


def test_an_unknown_track_is_refused(make_array):
    with pytest.raises(TokenError, match="1 tracks are not in the store, the first is 'nobody'"):
        make_array([6]).select(["track0", "nobody"])


def test_no_tracks_make_no_array():
    with pytest.raises(TokenError, match="at least one track, got none"):
        array_of_tracks([])


def test_codes_of_another_width_are_refused():
    with pytest.raises(DelayError, match=r"needs 10 \+ 8 frames for a window of 10, got 10"):
        to_sequence(torch.zeros(1, 9, 10, dtype=torch.long), build_pattern("musicgen"), 10)


def test_a_window_counts_no_more_than_it_says(make_array):
    windows = WindowTable(np.array([0], np.int32), np.array([4]), np.array([3], np.int32))
    batch = read_batch(make_array([20]), windows, frames=5, max_delay=2)
    assert batch.counted.tolist() == [[True, True, True, False, False]]
    assert is_code(batch.codes).all()
