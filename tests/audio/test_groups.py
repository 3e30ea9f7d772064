"""Laws of groups, and of the proof that no split parts one."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.near_duplicates import NearDuplicate
from melodac.audio.split import Placed, check_leaks, form_groups
from melodac.errors import LeakError

PATHS = [f"{number}.wav" for number in range(8)]
KEYS = st.lists(st.sampled_from(["album:x", "album:y", "group:one", "group:two"]), max_size=2)
LIBRARY = st.fixed_dictionaries(dict.fromkeys(PATHS, KEYS)).map(
    lambda library: {path: [*keys, f"name:{path}"] for path, keys in library.items()}
)
LINKS = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(PATHS)).filter(lambda ab: ab[0] < ab[1]),
    max_size=4,
    unique=True,
)


def near(pairs, similarity=0.9):
    return [NearDuplicate(first, second, similarity) for first, second in pairs]


def reachable(start, keys, pairs):
    """Whatever a chain of links joins, the slow way."""
    joined = {start}
    while True:
        shared = {key for path in joined for key in keys[path]}
        more = {path for path in keys if shared & set(keys[path])}
        more |= {path for pair in pairs if joined & set(pair) for path in pair}
        if more <= joined:
            return joined
        joined |= more


@given(LIBRARY, LINKS)
def test_a_group_is_all_that_a_chain_of_links_joins(keys, pairs):
    groups = form_groups(keys, near(pairs))
    for path in keys:
        together = {other for other in keys if groups[other].group == groups[path].group}
        assert together == reachable(path, keys, pairs)


@given(LIBRARY, LINKS, st.randoms())
def test_order_of_arrival_plays_no_part(keys, pairs, random):
    shuffled = dict(random.sample(list(keys.items()), k=len(keys)))
    again = form_groups(shuffled, near(random.sample(pairs, k=len(pairs))))
    assert list(again.items()) == list(form_groups(keys, near(pairs)).items())


@given(LIBRARY, LINKS)
def test_a_group_is_named_by_its_smallest_key(keys, pairs):
    for path, member in form_groups(keys, near(pairs)).items():
        joined = reachable(path, keys, pairs)
        assert member.group == min(key for other in joined for key in keys[other])


def test_why_a_recording_is_linked_is_said():
    keys = {
        "a": ["album:x", "name:a"],
        "b": ["album:x", "name:b"],
        "c": ["name:c"],
        "d": ["name:d"],
    }
    pairs = [NearDuplicate("a", "c", 0.934), NearDuplicate("b", "c", 0.95)]
    linked_by = {path: member.linked_by for path, member in form_groups(keys, pairs).items()}
    assert linked_by == {
        "a": ("album", "sounds like: c (0.93)"),
        "b": ("album", "sounds like: c (0.95)"),
        "c": ("sounds like: b (0.95) and 1 more",),
        "d": (),
    }


def placed(path, split, *keys, group=None, sound=None):
    return Placed(path, split, group or f"name:{path}", sound or path, keys)


CLEAN = [
    placed("a", "train", "album:x", group="album:x"),
    placed("b", "train", "album:x", group="album:x"),
    placed("c", "test", "name:c"),
    placed("d", "validation", "name:d"),
]


def test_a_split_of_whole_groups_passes():
    check_leaks(CLEAN, near([("a", "b")]))
    check_leaks([], [])


LEAKS = {
    "key": ({"split": "test"}, [], r"a \(train\) and b \(test\): album:x"),
    "sound": ({"audio_sha256": "c"}, [], r"b \(train\) and c \(test\): sound c"),
    "group": ({"group": "name:d"}, [], r"b \(train\) and d \(validation\): group name:d"),
    "near-duplicate": ({}, [("b", "c")], r"b \(train\) and c \(test\): sounds alike \(0.90\)"),
}


@pytest.mark.parametrize("case", LEAKS)
def test_every_kind_of_leak_is_an_error_that_names_it(case):
    changes, pairs, message = LEAKS[case]
    corrupted = [*CLEAN[:1], dataclasses.replace(CLEAN[1], **changes), *CLEAN[2:]]
    with pytest.raises(LeakError, match=message) as caught:
        check_leaks(corrupted, near(pairs))
    assert "\n" not in str(caught.value)


def test_of_many_leaks_a_few_are_named():
    crowd = [placed(f"{i}", ("train", "test")[i % 2], "album:x") for i in range(11)]
    with pytest.raises(LeakError, match="and 2 more"):
        check_leaks(crowd, [])
