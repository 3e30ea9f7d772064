"""Laws of the search: what all pairs would find, for any order, and not in quadratic time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.near_duplicates import find_near_duplicates
from tests.reference.near_duplicates import all_pairs


def noise(rng, length):
    return rng.integers(1, 1 << 32, length, dtype=np.uint32)


def flip(rng, words, share):
    """The words after a channel that flips this share of the bits."""
    bits = np.unpackbits(words.view(np.uint8)) ^ (rng.random(32 * len(words)) < share)
    return np.packbits(bits).view(np.uint32)


def library(seed, *, originals=4):
    """Recordings, and of some a copy that is cut, longer or damaged."""
    rng = np.random.default_rng(seed)
    words = {f"{i}": noise(rng, int(rng.integers(60, 250))) for i in range(originals)}
    for i in range(0, originals, 2):
        copy = words[f"{i}"][int(rng.integers(0, 20)) :]
        words[f"{i} copy"] = flip(rng, copy, rng.uniform(0.0, 0.12))
        words[f"{i} longer"] = np.concatenate([noise(rng, 50), words[f"{i}"]])
    return words


@settings(max_examples=6)
@given(st.integers(0, 10**6))
def test_as_many_as_comparing_all_pairs_finds(seed):
    words = library(seed)
    found = find_near_duplicates(words, 0.8)
    slow = all_pairs(words, 0.8)
    assert {(p.first, p.second) for p in found} == set(slow)
    assert len(found) >= 4
    for pair in found:
        assert pair.similarity == pytest.approx(slow[pair.first, pair.second], abs=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.randoms())
def test_order_of_arrival_plays_no_part(seed, random):
    words = library(seed, originals=3)
    shuffled = dict(random.sample(list(words.items()), k=len(words)))
    assert find_near_duplicates(shuffled, 0.8) == find_near_duplicates(words, 0.8)


def test_a_pair_is_found_whatever_else_is_there():
    words = library(5)
    alone = {name: words[name] for name in ("2", "2 copy")}
    (pair,) = find_near_duplicates(alone, 0.8)
    assert pair in find_near_duplicates(words, 0.8)


def test_a_crowd_of_copies_is_linked_in_one_chain():
    rng = np.random.default_rng(0)
    original = noise(rng, 200)
    words = {f"{i:03}": flip(rng, original, 0.05) for i in range(60)}
    pairs = find_near_duplicates(words, 0.8)
    linked = {"000"}
    for _ in words:
        linked |= {n for p in pairs if linked & {p.first, p.second} for n in (p.first, p.second)}
    assert linked == set(words)


def test_an_excerpt_is_found_in_a_long_recording():
    rng = np.random.default_rng(1)
    long = noise(rng, 20_000)
    words = {"long": long, "excerpt": flip(rng, long[12_000:12_700], 0.05)}
    (pair,) = find_near_duplicates(words, 0.8)
    assert pair.similarity > 0.95


@pytest.mark.parametrize("words", [{}, {"a": []}, {"a": [], "b": []}, {"a": [7], "b": []}])
def test_nothing_is_like_nothing(words):
    arrays = {name: np.array(values, np.uint32) for name, values in words.items()}
    assert find_near_duplicates(arrays, 0.5) == []


@pytest.mark.slow
def test_three_thousand_unrelated_recordings_are_searched_in_linear_work(monkeypatch):
    rng = np.random.default_rng(2)
    words = {f"{i}": noise(rng, 1000) for i in range(3000)}
    compared = []
    monkeypatch.setattr(
        "melodac.audio.near_duplicates.measure_similarity", lambda *_: compared.append(1) or 0.0
    )
    assert find_near_duplicates(words, 0.8) == []
    assert len(compared) < 10 * len(words)
