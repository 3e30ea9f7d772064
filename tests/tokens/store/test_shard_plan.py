"""Laws of placing tracks in shards: a function of the set, and a change stays where it is."""

import random

from hypothesis import given
from hypothesis import strategies as st

from melodac.tokens.store.shards import plan_shards

LENGTHS = st.dictionaries(
    st.integers(0, 10**6).map(lambda number: f"id{number}"), st.integers(1, 150), max_size=40
)
CAPACITY = 100


def groups(lengths):
    return {leaf.track_ids for leaf in plan_shards(lengths, CAPACITY)}


@given(LENGTHS)
def test_every_track_lies_in_one_leaf_that_holds_it(lengths):
    leaves = plan_shards(lengths, CAPACITY)
    assert sorted(name for leaf in leaves for name in leaf.track_ids) == sorted(lengths)
    next_shard = 0
    for leaf in leaves:
        assert leaf.first_shard == next_shard
        assert list(leaf.track_ids) == sorted(leaf.track_ids)
        num_frames = sum(lengths[name] for name in leaf.track_ids)
        assert (leaf.num_shards - 1) * CAPACITY < num_frames <= leaf.num_shards * CAPACITY
        assert leaf.num_shards == 1 or len(leaf.track_ids) == 1
        next_shard += leaf.num_shards


@given(LENGTHS, st.integers())
def test_the_order_of_the_tracks_does_not_matter(lengths, seed):
    shuffled = random.Random(seed).sample(sorted(lengths), len(lengths))
    again = {name: lengths[name] for name in shuffled}
    assert plan_shards(again, CAPACITY) == plan_shards(lengths, CAPACITY)


@given(LENGTHS.filter(lambda lengths: len(lengths) >= 1), st.data())
def test_a_track_more_or_less_changes_only_the_leaf_it_is_in(lengths, data):
    name = data.draw(st.sampled_from(sorted(lengths)))
    with_it = groups(lengths)
    without = groups({other: length for other, length in lengths.items() if other != name})
    # without the track, what is left of its leaf is one leaf, alone or with its twin, or nothing
    gone, new = without - with_it, with_it - without
    assert len(gone) <= 1
    assert {name}.union(*gone) == set().union(*new)


def test_shards_of_many_short_tracks_are_well_filled():
    lengths = {f"id{number}": 3 for number in range(5000)}
    leaves = plan_shards(lengths, CAPACITY)
    assert 5000 * 3 / (len(leaves) * CAPACITY) > 0.5
