"""Laws of outliers: costs as defined, stuck and foreign tracks found, equals left alone."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.tokens.array import array_of_tracks
from melodac.tokens.statistics import measure_tracks, robust_z

track_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(lengths=track_lengths, num_codes=st.integers(1, 9))
def test_measures_match_the_loop(make_array, lengths, num_codes):
    array = make_array(lengths, num_codes=num_codes)
    found = measure_tracks(array, 9)
    corpus = [Counter(array.values[:, k].tolist()) for k in range(3)]
    for track, length in enumerate(lengths):
        codes = array.codes(track)
        cost = entropy = 0.0
        for k in range(3):
            own = Counter(codes[:, k].tolist())
            for code, count in own.items():
                cost -= count * math.log(corpus[k][code] / sum(lengths))
                entropy -= count / length * math.log(count / length)
        distinct = len({tuple(frame) for frame in codes.tolist()})
        assert found.nats_under_unigram[track] == pytest.approx(cost / length / 3, abs=1e-9)
        assert found.entropy_nats[track] == pytest.approx(entropy / 3, abs=1e-9)
        assert found.repeated_share[track] == pytest.approx(1 - distinct / length, abs=1e-12)


def music(seed, low, high, frames=400):
    return np.random.default_rng(seed).integers(low, high, (frames, 9), dtype=np.uint16)


def test_a_stuck_track_and_a_foreign_one_are_pointed_out():
    tracks = [(f"t{seed}", music(seed, 0, 300)) for seed in range(20)]
    tracks.append(("stuck", np.tile(music(90, 0, 300, frames=1), (400, 1))))
    tracks.append(("foreign", music(91, 600, 1024)))
    found = measure_tracks(array_of_tracks(tracks))
    assert np.flatnonzero(found.is_outlier()).tolist() == [20, 21]
    assert found.repeated_share[20] == 1 - 1 / 400
    assert found.z_score[21] > 0


def test_equal_music_has_no_outliers():
    tracks = [(f"t{seed}", music(seed, 0, 300)) for seed in range(20)]
    assert not measure_tracks(array_of_tracks(tracks)).is_outlier().any()


def test_one_track_is_no_outlier():
    found = measure_tracks(array_of_tracks([("a", music(0, 0, 1024))]))
    assert found.z_score.tolist() == [0.0]


def test_scores_are_in_deviations_of_a_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    assert robust_z(values, 0.1).std() == pytest.approx(1.0, abs=0.02)
