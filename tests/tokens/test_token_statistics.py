"""Laws of token statistics: exact counts, tracks kept apart, entropy as defined."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.tokens.array import array_of_tracks
from melodac.tokens.statistics import count_codes, count_pairs, measure_statistics

track_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(lengths=track_lengths, num_codes=st.integers(1, 9))
def test_counts_match_the_loop(make_array, lengths, num_codes):
    array = make_array(lengths, num_codes=num_codes)
    counts, pairs = count_codes(array, 9), count_pairs(array, 9)
    for codebook in range(3):
        tracks = [array.codes(track)[:, codebook].tolist() for track in range(len(lengths))]
        codes = Counter(code for track in tracks for code in track)
        follows = Counter(pair for track in tracks for pair in pairwise(track))
        begins = Counter(track[0] for track in tracks)
        assert counts[codebook].tolist() == [codes[code] for code in range(9)]
        assert pairs.codes()[codebook].tolist() == counts[codebook].tolist()
        assert pairs.firsts[codebook].tolist() == [begins[code] for code in range(9)]
        for before in range(9):
            expected = [follows[before, code] for code in range(9)]
            assert pairs.pairs[codebook, before].tolist() == expected


def test_a_selection_counts_its_own_tracks(make_array):
    array = make_array([20, 30, 10]).select(["track2", "track0"])
    alone = array_of_tracks([("c", array.codes(0)), ("a", array.codes(1))])
    assert np.array_equal(count_codes(array), count_codes(alone))
    assert np.array_equal(count_pairs(array).pairs, count_pairs(alone).pairs)


def test_amounts_are_those_of_the_tracks(make_array):
    found = measure_statistics(make_array([8613, 17226]), frame_rate_hz=86.13)
    assert (found.num_tracks, found.num_frames, found.num_codes) == (2, 25839, 3 * 25839)
    assert found.duration_h == pytest.approx(300 / 3600, rel=1e-12)


def test_equally_frequent_codes_have_the_entropy_of_their_number():
    codes = np.tile(np.arange(16, dtype=np.uint16), 10).reshape(-1, 1)
    (found,) = measure_statistics(array_of_tracks([("a", codes)]), 86.13).codebooks
    assert found.entropy_nats == pytest.approx(math.log(16), rel=1e-12)
    assert (found.num_used, found.num_dead) == (16, 1008)
    assert found.usage == pytest.approx(16 / 1024, rel=1e-12)


def test_one_code_has_no_entropy():
    codes = np.full((7, 1), 5, dtype=np.uint16)
    (found,) = measure_statistics(array_of_tracks([("a", codes)]), 86.13).codebooks
    assert (found.entropy_nats, found.num_used, found.num_dead) == (0.0, 1, 1023)


@given(lengths=track_lengths, num_codes=st.integers(1, 9))
def test_entropy_is_at_most_that_of_the_codes_in_use(make_array, lengths, num_codes):
    for found in measure_statistics(make_array(lengths, num_codes=num_codes), 86.13, 9).codebooks:
        assert 0 <= found.entropy_nats <= math.log(found.num_used) + 1e-12
        assert found.num_used + found.num_dead == 9
