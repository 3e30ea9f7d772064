"""Laws of the baselines: honest probabilities, as strong as counting gets, tracks kept apart."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.evaluation.ngrams import (
    CONCENTRATIONS,
    DISCOUNTS,
    NgramBaseline,
    Smoothing,
    _fit,
    _split,
    fit_baseline,
    score_baseline,
)
from melodac.tokens.array import array_of_tracks
from melodac.tokens.statistics import count_pairs
from tests.reference import ngrams as reference

track_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def tracks_of(array, codebook):
    return [array.codes(track)[:, codebook].tolist() for track in range(len(array.track_ids))]


def markov_tracks(num_tracks, length, num_codes=16, seed=0):
    """Tracks of a chain whose next code is the last one plus one of three steps: ln 3 nats."""
    generator = np.random.default_rng(seed)
    tracks = []
    for position in range(num_tracks):
        steps = generator.choice([1, 2, 5], size=(length, 2))
        codes = (steps.cumsum(axis=0) + generator.integers(num_codes)) % num_codes
        tracks.append((f"track{position}", codes.astype(np.uint16)))
    return array_of_tracks(tracks)


@settings(max_examples=10)
@given(train=track_lengths, test=track_lengths, num_codes=st.integers(1, 8))
def test_scores_match_the_loop(make_array, train, test, num_codes):
    seen = make_array(train, seed=1, num_codes=num_codes)
    scored = make_array(test, seed=2, num_codes=8)
    baseline = fit_baseline(seen, codebook_size=8)
    unigram, bigram = score_baseline(baseline, scored)
    for codebook in range(3):
        expected = reference.score(
            tracks_of(seen, codebook), tracks_of(scored, codebook), baseline.smoothing, 8, codebook
        )
        assert unigram[codebook] == pytest.approx(expected[0], rel=1e-9)
        assert bigram[codebook] == pytest.approx(expected[1], rel=1e-9)


@settings(max_examples=10)
@given(lengths=track_lengths, num_codes=st.integers(1, 12))
def test_probabilities_sum_to_one_after_any_code(make_array, lengths, num_codes):
    baseline = fit_baseline(make_array(lengths, num_codes=num_codes), codebook_size=12)
    for codebook in range(3):
        assert baseline.unigram(codebook).sum() == pytest.approx(1, rel=1e-9)
        assert baseline.bigram(codebook).min() > 0
        np.testing.assert_allclose(baseline.bigram(codebook).sum(axis=1), 1, rtol=1e-9)


def test_a_chain_is_learned_to_its_entropy():
    baseline = fit_baseline(markov_tracks(20, 400), codebook_size=16)
    unigram, bigram = score_baseline(baseline, markov_tracks(10, 400, seed=1))
    np.testing.assert_allclose(unigram, math.log(16), atol=0.02)
    np.testing.assert_allclose(bigram, math.log(3), atol=0.03)


def test_noise_costs_what_noise_costs(make_array):
    baseline = fit_baseline(make_array([300] * 10, seed=1), codebook_size=1024)
    unigram, bigram = score_baseline(baseline, make_array([300] * 10, seed=2))
    np.testing.assert_allclose(unigram, math.log(1024), atol=0.02)
    np.testing.assert_allclose(bigram, math.log(1024), atol=0.02)


def test_smoothing_is_the_best_of_all_combinations():
    rest, held_out = (count_pairs(part, 16) for part in _split(markov_tracks(10, 60)))
    found = _fit(rest, held_out, codebook=0)

    def cost(discount, concentration):
        smoothing = (Smoothing(found.prior, discount, concentration),)
        bigram = NgramBaseline(rest, smoothing).bigram(0)
        return -(held_out.pairs[0] * np.log(bigram)).sum()

    best = min(cost(d, c) for d in DISCOUNTS for c in CONCENTRATIONS)
    assert cost(found.discount, found.concentration) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("lengths", [[2], [40], [7, 9], [5, 1, 8, 20, 3, 11]])
def test_the_counts_are_those_of_all_training_tracks(make_array, lengths):
    array = make_array(lengths, num_codes=6)
    counts = fit_baseline(array, codebook_size=6).counts
    assert np.array_equal(counts.pairs, count_pairs(array, 6).pairs)
    assert counts.codes().sum(axis=1).tolist() == [sum(lengths)] * 3


@given(lengths=track_lengths)
def test_held_out_and_rest_are_disjoint_and_complete(make_array, lengths):
    array = make_array(lengths)
    rest, held_out = _split(array)
    assert int(rest.lengths.sum() + held_out.lengths.sum()) == sum(lengths)
    assert held_out.lengths.sum() >= 1
    if len(lengths) > 1:
        assert set(rest.track_ids) | set(held_out.track_ids) == set(array.track_ids)
        assert not set(rest.track_ids) & set(held_out.track_ids)


def test_a_code_never_seen_has_a_finite_cost(make_array):
    train = array_of_tracks([("only", np.zeros((5, 1), dtype=np.uint16))])
    scores = score_baseline(fit_baseline(train, codebook_size=8), make_array([9], 1, num_codes=8))
    assert np.isfinite(scores.unigram_nats).all()
    assert np.isfinite(scores.bigram_nats).all()


def test_one_code_for_ever_costs_next_to_nothing():
    tracks = [(f"track{n}", np.full((500, 1), 3, dtype=np.uint16)) for n in range(6)]
    scores = score_baseline(fit_baseline(array_of_tracks(tracks)), array_of_tracks(tracks))
    assert scores.unigram_nats[0] < 0.001
    assert scores.bigram_nats[0] < 0.001


def test_the_fit_is_deterministic(make_array):
    first, second = (fit_baseline(make_array([50] * 7, num_codes=20)) for _ in range(2))
    assert first.smoothing == second.smoothing
