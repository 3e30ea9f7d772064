"""Laws of tags as text: what says how a track sounds is read, what only names it never is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.tokens.tags import SEPARATOR, UNREAD, join_tags, tag_texts

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9)


def test_the_tags_of_the_sample_are_read_like_this():
    tags = {
        "tags": "folk, acoustic guitar,no drums",
        "tempo_bpm": "108",
        "key": "G major",
        "description": "A barn dance, in the rain.",
    }
    assert tag_texts(tags, "audio/apple-barn_full.ogg") == (
        "A barn dance, in the rain.", "folk", "acoustic guitar", "no drums", "key G major",
        "tempo_bpm 108",
    )  # fmt: skip


def test_the_order_of_the_fields_does_not_matter():
    tags = {"tags": "a", "genre": "b", "key": "c", "style": "d"}
    assert tag_texts(tags, "x") == tag_texts(dict(reversed(tags.items())), "x")


def test_a_word_said_twice_is_read_once():
    assert tag_texts({"genre": "folk", "tags": "fiddle; folk |fiddle"}, "x") == ("folk", "fiddle")


@pytest.mark.parametrize("name", sorted(UNREAD))
def test_what_only_names_a_recording_is_not_read(name):
    assert tag_texts({name: "Apple Barn", "key": "C"}, "x.ogg") == ("key C",)


@pytest.mark.parametrize("field", ["description", "tags", "work", "keywords"])
@pytest.mark.parametrize(
    "value",
    ["audio/Apple-Barn_full.ogg", "apple-barn_full.ogg", "Apple Barn  full", "APPLE_BARN_FULL"],
)
def test_a_file_name_is_never_read_whatever_field_holds_it(field, value):
    tags = {field: value, "key": "C"}
    assert tag_texts(tags, "audio/apple-barn_full.ogg") == ("key C",)


def test_an_empty_word_is_no_tag():
    assert tag_texts({"tags": "folk,, ,"}, "x") == ("folk",)
    assert tag_texts({}, "x") == ()


@given(st.lists(WORDS, max_size=12), st.integers(0, 60))
def test_what_fits_stands_whole_and_in_order_and_the_rest_is_counted(tags, max_bytes):
    text, num_left_out = join_tags(tags, max_bytes)
    assert len(text.encode()) <= max_bytes
    kept, rest = [], list(tags)
    left = text
    while rest:  # the text is the tags that were kept, one after another
        tag = rest.pop(0)
        if left == tag or left.startswith(tag + SEPARATOR):
            kept.append(tag)
            left = left.removeprefix(tag).removeprefix(SEPARATOR)
    assert not left
    assert len(tags) - num_left_out <= len(kept)


def test_one_long_tag_does_not_push_out_the_others():
    text, num_left_out = join_tags(["a description without end", "folk", "key C"], 11)
    assert text == "folk, key C"
    assert num_left_out == 1
