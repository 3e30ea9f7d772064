"""Laws of merging: one order of sources whatever the order of files, each field with its source."""

import csv
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.metadata.collect import collect_metadata
from melodac.audio.metadata.embedded import EmbeddedTags
from melodac.audio.metadata.fields import Statement, TrackMetadata, merge

SONG = "a/song.wav"


def write(root, path, text):
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def collect(root, *, tables=(), side_cars=(), embedded=None):
    return collect_metadata(
        root,
        tables=tables,
        side_cars=[(path, SONG) for path in side_cars],
        embedded=embedded or {},
        known_paths={SONG, "b.wav"},
    )


SOURCES = [
    "a/metadata.csv", "a/metadata.jsonl", "metadata.csv", "metadata.jsonl",
    "a/song.json", "a/song_prompt.txt", "a/song.txt", "embedded",
]  # fmt: skip
"""Most binding first."""


def say(root, source, text):
    """Write a source that says the one field `description`."""
    row = {"file_name": "song.wav" if source.startswith("a/") else SONG, "description": text}
    if source.endswith(".csv"):
        write(root, source, "")
        with (root / source).open("w", newline="") as file:
            csv.writer(file).writerows([row.keys(), row.values()])
    elif source.endswith(".txt"):
        write(root, source, text)
    elif source != "embedded":
        write(root, source, json.dumps(row))


@settings(max_examples=30)
@given(st.sets(st.sampled_from(SOURCES), min_size=1), st.randoms(use_true_random=False))
def test_the_most_binding_source_speaks_whatever_the_listing_order(tmp_path_factory, chosen, draw):
    root = tmp_path_factory.mktemp("music")
    for source in chosen:
        say(root, source, f"said by {source}")
    listed = sorted(chosen - {"embedded"})
    draw.shuffle(listed)
    inside = {"description": "said by embedded"} if "embedded" in chosen else {}
    found, problems = collect(
        root,
        tables=[path for path in listed if "metadata" in path],
        side_cars=[path for path in listed if "metadata" not in path],
        embedded={SONG: EmbeddedTags(inside)},
    )
    first = next(source for source in SOURCES if source in chosen)
    assert problems == []
    assert found == {
        SONG: TrackMetadata(
            tags={"description": f"said by {first}"}, sources={"description": first}
        )
    }


def test_each_field_comes_from_the_first_source_that_has_it(tmp_path):
    write(tmp_path, "metadata.csv", f"file_name,group,bpm\n{SONG},one,\n")
    write(tmp_path, "a/song.json", '{"tempo": 90, "genre": "waltz", "license": "CC0"}')
    inside = {"genre": "Jazz", "artist": "Ann", "album": "Songs", "album_artist": "Ann & Co"}
    found, problems = collect(
        tmp_path,
        tables=["metadata.csv"],
        side_cars=["a/song.json"],
        embedded={SONG: EmbeddedTags(inside), "b.wav": EmbeddedTags({}, "damaged")},
    )
    track = found[SONG]
    assert (track.group, track.licence) == ("one", "CC0")
    assert (track.artist, track.album, track.album_artist) == ("Ann", "Songs", "Ann & Co")
    assert track.description == ""
    assert track.tags == {
        "album": "Songs", "album_artist": "Ann & Co", "artist": "Ann",
        "genre": "waltz", "tempo_bpm": "90",
    }  # fmt: skip
    assert track.sources == {
        "album": "embedded", "album_artist": "embedded", "artist": "embedded",
        "genre": "a/song.json", "group": "metadata.csv", "licence": "a/song.json",
        "tempo_bpm": "a/song.json",
    }  # fmt: skip
    assert list(track.tags) == sorted(track.tags)
    assert problems == ["b.wav: embedded tags: damaged"]


def test_missing_stays_missing_and_a_file_name_says_nothing(tmp_path):
    found, problems = collect(tmp_path, embedded={SONG: EmbeddedTags()})
    assert (found, problems) == ({SONG: TrackMetadata()}, [])
    assert collect(tmp_path) == ({}, [])


def test_a_wrong_value_leaves_the_field_to_the_next_source(tmp_path):
    write(tmp_path, "a/song.json", '{"bpm": "fast"}')
    found, (problem,) = collect(
        tmp_path, side_cars=["a/song.json"], embedded={SONG: EmbeddedTags({"tempo_bpm": "90"})}
    )
    assert found[SONG].sources == {"tempo_bpm": "embedded"}
    assert problem.startswith("a/song.json: tempo_bpm must be a number")


def test_problems_are_sorted(tmp_path):
    write(tmp_path, "metadata.csv", "file_name\n/x\n/y\n")
    write(tmp_path, "a/song.json", "{")
    _, problems = collect(
        tmp_path,
        tables=["metadata.csv"],
        side_cars=["a/song.json"],
        embedded={path: EmbeddedTags({}, "damaged") for path in ("b.wav", SONG)},
    )
    assert len(problems) == 5
    assert problems == sorted(problems)


FIELDS = st.dictionaries(st.sampled_from("abcg"), st.text(min_size=1, max_size=3))


@given(st.lists(FIELDS, max_size=5))
def test_merging_is_asking_each_source_in_turn(said):
    merged = merge(Statement(str(rank), fields) for rank, fields in enumerate(said))
    for name in "abcg":
        answers = [(fields[name], str(rank)) for rank, fields in enumerate(said) if name in fields]
        if answers:
            assert (merged.tags[name], merged.sources[name]) == answers[0]
        else:
            assert name not in merged.tags
            assert name not in merged.sources
