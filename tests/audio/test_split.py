"""Laws of the split: whole groups, the promised sizes, the same on every machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.split import split_groups
from melodac.errors import EmptySplitError

SECONDS = st.dictionaries(st.text(max_size=5), st.floats(0.5, 600.0), min_size=3, max_size=40)
FRACS = {"validation_frac": 0.1, "test_frac": 0.2}


@given(SECONDS, st.integers(0, 100))
def test_every_group_has_a_split_and_every_split_a_group(seconds, seed):
    splits = split_groups(seconds, **FRACS, seed=seed)
    assert splits.keys() == seconds.keys()
    assert set(splits.values()) == {"train", "validation", "test"}


@given(SECONDS, st.integers(0, 100), st.randoms())
def test_order_of_arrival_plays_no_part(seconds, seed, random):
    shuffled = random.sample(list(seconds.items()), k=len(seconds))
    assert split_groups(dict(shuffled), **FRACS, seed=seed) == split_groups(
        seconds, **FRACS, seed=seed
    )


@given(st.integers(30, 200), st.integers(0, 100))
def test_shares_are_reached_and_not_by_far_exceeded(num_groups, seed):
    seconds = {str(number): 10.0 for number in range(num_groups)}
    splits = split_groups(seconds, **FRACS, seed=seed)
    for split, frac in (("validation", 0.1), ("test", 0.2)):
        share = list(splits.values()).count(split) / num_groups
        assert frac - 1e-9 <= share < frac + 1 / num_groups


def test_a_huge_group_leaves_one_for_each_split():
    for seed in range(20):
        splits = split_groups({"a": 1.0, "b": 1.0, "c": 1000.0}, **FRACS, seed=seed)
        assert sorted(splits.values()) == ["test", "train", "validation"]


def test_another_seed_is_another_split():
    seconds = {str(number): 10.0 for number in range(30)}
    assert split_groups(seconds, **FRACS, seed=0) != split_groups(seconds, **FRACS, seed=1)


def test_the_split_has_not_moved():
    seconds = dict.fromkeys("abcdefgh", 10.0)
    splits = split_groups(seconds, **FRACS, seed=0)
    assert {name: split for name, split in splits.items() if split != "train"} == {
        "c": "test",
        "d": "test",
        "f": "validation",
    }


def test_too_few_groups_is_said_with_what_to_do():
    with pytest.raises(EmptySplitError, match=r"got 2 \(a, b\), at least 3 .* add music"):
        split_groups({"b": 1.0, "a": 1.0}, **FRACS, seed=0)
