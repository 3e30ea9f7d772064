"""Laws of the split: whole groups, the promised sizes, where a group is it stays."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.split import SplitPlan, split_groups
from melodac.errors import EmptySplitError

SECONDS = st.dictionaries(st.text(max_size=5), st.floats(0.5, 600.0), min_size=3, max_size=40)
PLAN = SplitPlan(validation_frac=0.1, test_frac=0.2, min_validation_s=0.0, seed=0)


def plan(**changes):
    return dataclasses.replace(PLAN, **changes)


def shares(seconds, splits):
    total = Counter()
    for group, split in splits.items():
        total[split] += seconds[group] / sum(seconds.values())
    return total


@given(SECONDS, st.integers(0, 100))
def test_every_group_has_a_split_and_every_split_a_group(seconds, seed):
    splits = split_groups(seconds, plan(seed=seed))
    assert splits.keys() == seconds.keys()
    assert set(splits.values()) == {"train", "validation", "test"}


@given(SECONDS, st.integers(0, 100), st.randoms())
def test_order_of_arrival_plays_no_part(seconds, seed, random):
    shuffled = random.sample(list(seconds.items()), k=len(seconds))
    assert split_groups(dict(shuffled), plan(seed=seed)) == split_groups(seconds, plan(seed=seed))


@given(st.integers(30, 200), st.integers(0, 100))
def test_shares_are_within_half_and_twice_of_what_was_asked(num_groups, seed):
    seconds = {str(number): 10.0 for number in range(num_groups)}
    share = shares(seconds, split_groups(seconds, plan(seed=seed)))
    for split, frac in (("validation", 0.1), ("test", 0.2)):
        assert frac / 2 - 1e-9 <= share[split] <= 2 * frac + 1e-9


def test_shares_are_on_average_what_was_asked():
    seconds = {f"composition {number}": 20.0 + number % 7 for number in range(34)}
    found = [shares(seconds, split_groups(seconds, plan(seed=seed))) for seed in range(300)]
    for split, frac in (("validation", 0.1), ("test", 0.2), ("train", 0.7)):
        assert sum(share[split] for share in found) / len(found) == pytest.approx(frac, abs=0.01)


def test_in_a_large_set_no_added_music_moves_a_group():
    before = {f"album {number}": 2000.0 + number % 700 for number in range(400)}
    added = {f"new {number}": 1500.0 + number % 900 for number in range(400)}
    for seed in range(50):
        first = split_groups(before, plan(seed=seed))
        second = split_groups(added | before, plan(seed=seed))
        assert {group: second[group] for group in first} == first


def test_in_a_small_set_an_added_group_moves_the_nearest_to_a_border_if_any():
    moved = []
    for seed in range(300):
        before = {str(number): 10.0 for number in range(34)}
        first = split_groups(before, plan(seed=seed))
        second = split_groups(before | {"new": 10.0}, plan(seed=seed))
        moved.append(sum(second[group] != split for group, split in first.items()))
    assert max(moved) <= 2
    assert sum(moved) < 0.15 * len(moved)


def test_a_huge_group_is_train():
    for seed in range(20):
        splits = split_groups({"a": 1.0, "b": 1.0, "c": 1000.0}, plan(seed=seed))
        assert splits["c"] == "train"
        assert sorted(splits.values()) == ["test", "train", "validation"]


def test_another_seed_is_another_split():
    seconds = {str(number): 10.0 for number in range(30)}
    assert split_groups(seconds, PLAN) != split_groups(seconds, plan(seed=1))


def test_the_split_has_not_moved():
    splits = split_groups(dict.fromkeys("abcdefghijklmno", 10.0), PLAN)
    assert {name: split for name, split in splits.items() if split != "train"} == {
        "j": "test",
        "l": "validation",
        "m": "test",
    }


@given(SECONDS, st.integers(0, 20), st.floats(0.0, 0.25))
def test_validation_holds_the_least_or_it_is_said(seconds, seed, part):
    least_s = part * sum(seconds.values())
    try:
        splits = split_groups(seconds, plan(seed=seed, min_validation_s=least_s))
    except EmptySplitError:
        assert least_s > 0.0
        return
    held_s = sum(seconds[group] for group, split in splits.items() if split == "validation")
    assert held_s >= least_s - 1e-6


def test_more_groups_validate_where_the_least_asks_for_it():
    seconds = {str(number): 10.0 for number in range(20)}
    splits = split_groups(seconds, plan(min_validation_s=55.0))
    assert list(splits.values()).count("validation") == 6


@pytest.mark.parametrize("least_s", [11.0, 1000.0])
def test_too_little_music_to_validate_with_is_said_with_what_to_do(least_s):
    message = (
        rf"10\.0 s of 30\.0 s can be spared, at least {least_s:g} s are needed; "
        "add music or lower ingest.min_validation_s"
    )
    with pytest.raises(EmptySplitError, match=message):
        split_groups(dict.fromkeys("abc", 10.0), plan(min_validation_s=least_s))


def test_too_few_groups_is_said_with_what_to_do():
    with pytest.raises(EmptySplitError, match=r"got 2 \(a, b\), at least 3 .* add music"):
        split_groups({"b": 1.0, "a": 1.0}, PLAN)
