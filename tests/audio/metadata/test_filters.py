"""Laws of tag filters: whole words of lists, any case, the reason told; a malformed one is refused."""

import pytest

from melodac.audio.metadata.fields import TrackMetadata
from melodac.audio.metadata.filters import TagFilter
from melodac.errors import ConfigError

TRACK = TrackMetadata(
    group="boats",
    licence="https://creativecommons.org/publicdomain/zero/1.0/",
    tags={
        "tags": "Piano waltz, piano; no  vocals|warm",
        "genre": "Drum & Bass/Jungle",
        "artist": "AC/DC",
        "tempo_bpm": "92",
        "title": "STRASSE",
    },
)


def is_found(entry):
    by_skip = TagFilter([], [entry]).reason_to_skip(TRACK)
    by_require = TagFilter([entry], []).reason_to_skip(TRACK)
    assert bool(by_skip) != bool(by_require)
    return bool(by_skip)


@pytest.mark.parametrize(
    "entry",
    ["piano", "PIANO", " piano ", "no vocals", "warm", "jungle", "drum & bass/jungle", "straße",
     "tags=piano", "Genre = jungle", "artist=ac/dc", "artist=DC", "bpm=92", "group=Boats",
     "licence=CC0-1.0", "license=cc0-1.0",
     "licence=https://creativecommons.org/publicdomain/zero/1.0/"],
)  # fmt: skip
def test_whole_items_are_found_in_any_case(entry):
    assert is_found(entry)


@pytest.mark.parametrize(
    "entry",
    ["vocals", "pian", "waltz", "genre=piano", "group=piano", "boats", "cc0-1.0", "mood=warm",
     "licence=CC-BY-4.0", "artist=ac/dc/x"],
)  # fmt: skip
def test_parts_of_words_and_other_fields_are_not(entry):
    assert not is_found(entry)


def test_all_required_and_none_skipped():
    both = TagFilter(["piano", "warm"], ["vocals", "genre=speech"])
    assert both.reason_to_skip(TRACK) == ""
    lacking = TagFilter(["piano", "cello", "harp"], [])
    assert lacking.reason_to_skip(TRACK) == "tags: lacks 'cello' (ingest.require_tags)"
    skipped = TagFilter(["cello"], ["x", "genre=Jungle"])
    assert skipped.reason_to_skip(TRACK) == "tags: has 'genre=Jungle' (ingest.skip_tags)"


def test_no_filter_keeps_all_and_nothing_known_has_no_tag():
    assert TagFilter([], []).reason_to_skip(TRACK) == ""
    assert TagFilter([], ["vocals", "licence=unknown"]).reason_to_skip(TrackMetadata()) != ""
    assert TagFilter([], ["vocals", "genre=x"]).reason_to_skip(TrackMetadata()) == ""
    assert TagFilter(["vocals"], []).reason_to_skip(TrackMetadata()) != ""


@pytest.mark.parametrize("entry", ["", "  ", "=x", "genre=", "=", "a=b=c", "\x1b", " =x"])
@pytest.mark.parametrize("key", ["require_tags", "skip_tags"])
def test_a_malformed_filter_is_refused(entry, key):
    lists = ([entry], []) if key == "require_tags" else ([], [entry])
    with pytest.raises(ConfigError, match=rf"^ingest\.{key}: expected word or field=word, got "):
        TagFilter(*lists)
