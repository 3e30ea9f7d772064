"""Laws of group keys: an album is never parted, strangers are not joined, nothing known is no key."""

import pytest

from melodac.audio.metadata.fields import TrackMetadata, join_texts
from melodac.audio.split import group_names

ALL = ["group", "album", "artist"]


def keys(fields=("album",), folder="", group="", **tags):
    return set(group_names(TrackMetadata(group=group, tags=tags), fields, folder))


def test_a_track_nothing_is_known_of_has_no_key():
    assert keys(ALL, "a") == set()
    assert keys((), "a", group="g", album="x", artist="y") == set()


def test_only_the_fields_asked_for_give_keys():
    told = {"group": "g", "album": "x", "album_artist": "y", "artist": "y"}
    assert keys(["group"], **told) == {"group:g"}
    assert keys(["artist"], **told) == {"artist:y"}
    assert keys(["album"], **told) == {"album:y/x"}
    assert group_names(TrackMetadata("g", "", {"artist": "y"}), ALL, "") == ["artist:y", "group:g"]


def test_a_group_is_taken_as_written():
    assert keys(["group"], group="One") != keys(["group"], group="one")


def test_an_album_is_one_however_it_is_typed_and_wherever_it_lies():
    first = keys(folder="cd 1", album="Songs", album_artist="Ann")
    second = keys(folder="cd 2", album=" SONGS ", album_artist="ann")
    bonus = keys(folder="extra", album="Songs", artist="Ann")
    assert first == second
    assert first & bonus


def test_a_compilation_in_a_folder_is_one_album():
    one = keys(folder="hits", album="Now 42", artist="Ann")
    two = keys(folder="hits", album="Now 42", artist="Bob")
    named = keys(folder="hits", album="Now 42", artist="Cy", album_artist="Various Artists")
    assert one & two
    assert one & named


def test_albums_of_one_title_stay_apart():
    ann = keys(folder="ann", album="Greatest Hits", artist="Ann")
    bob = keys(folder="bob", album="Greatest Hits", artist="Bob")
    nobody = keys(folder="x", album="Greatest Hits")
    assert not ann & bob
    assert not ann & nobody
    same_folder = [keys(folder="", album="Greatest Hits", album_artist=name) for name in "ab"]
    assert not same_folder[0] & same_folder[1]


@pytest.mark.parametrize("title", ["Unknown Album", "unknown", "-", "Untitled", "N/A", "Singles"])
def test_a_title_that_says_nothing_joins_nothing(title):
    assert keys(folder="a", album=title, artist="Ann") == set()
    assert keys(["artist"], artist="Unknown Artist") == set()


def test_a_guest_and_a_list_do_not_part_an_artist():
    alone = keys(["artist"], artist="Ann")
    for text in (
        "ANN",
        "Ann feat. Bob",
        "Ann (ft. Bob)",
        "Ann [featuring Bob]",
        join_texts("Artist", ["Bob", "", "Ann"]),
    ):
        assert alone & keys(["artist"], artist=text), text
    assert not alone & keys(["artist"], artist="Annfeat. Bob")
    assert not alone & keys(["artist"], artist="Anna")
