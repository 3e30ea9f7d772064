"""Laws of side-cars: they speak of one file, the fuller one binds more, faults cost only themselves."""

import json
from itertools import permutations

import pytest

from melodac.audio.metadata.collect import MAX_JSON_BYTES, MAX_TEXT_BYTES, read_side_cars

AUDIO = "a/song.wav"
AUDIOCRAFT = {
    "title": "Boats", "artist": "Ann", "composer": ["Bach, Johann Sebastian", "Bob"], "key": "C minor", "bpm": 92.0, "genre": "waltz",
    "moods": ["calm", "warm"], "keywords": ["sea"], "description": "A slow waltz.",
    "name": "boats_1", "instrument": "Mix", "energy": 3, "live": False, "path": None,
}  # fmt: skip


def read(root, name, data):
    (root / "a").mkdir(exist_ok=True)
    (root / "a" / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    said, problems = read_side_cars(root, [(f"a/{name}", AUDIO)])
    return [(one.source, dict(one.fields)) for one in said.get(AUDIO, [])], problems


def test_audiocraft_fields_become_tags_and_unknown_ones_stay(tmp_path):
    ((source, fields),), problems = read(tmp_path, "song.json", json.dumps(AUDIOCRAFT))
    assert problems == []
    assert source == "a/song.json"
    assert fields == {
        "title": "Boats", "artist": "Ann", "composer": "Bach, Johann Sebastian; Bob",
        "key": "C minor", "tempo_bpm": "92", "genre": "waltz",
        "moods": "calm, warm", "keywords": "sea", "description": "A slow waltz.",
        "name": "boats_1", "instrument": "Mix", "energy": "3", "live": "false",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["song.txt", "song_prompt.txt", "SONG.TXT"])
def test_a_text_is_the_description_on_one_line(tmp_path, name):
    said, problems = read(tmp_path, name, b"\xef\xbb\xbf  Calm piano,\r\n  slow.\n\n")
    assert said == [(f"a/{name}", {"description": "Calm piano, slow."})]
    assert problems == []


def test_json_binds_more_than_prompt_and_prompt_more_than_text(tmp_path):
    names = ["song.json", "song_prompt.txt", "song.txt"]
    for name in names:
        read(tmp_path, name, '{"description": "1"}' if name.endswith("json") else name)
    for order in permutations(names):
        said, _ = read_side_cars(tmp_path, [(f"a/{name}", AUDIO) for name in order])
        assert [one.source for one in said[AUDIO]] == [f"a/{name}" for name in names]


def test_a_text_that_shares_the_whole_stem_is_no_prompt_of_another(tmp_path):
    read(tmp_path, "song_prompt.txt", "x")
    (tmp_path / "a" / "song.txt").write_text("y")
    pairs = [("a/song_prompt.txt", "a/song_prompt.wav"), ("a/song.txt", AUDIO)]
    said, _ = read_side_cars(tmp_path, pairs)
    assert {path: [one.source for one in all_said] for path, all_said in said.items()} == {
        "a/song_prompt.wav": ["a/song_prompt.txt"],
        AUDIO: ["a/song.txt"],
    }


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("song.json", "{", "not JSON"),
        ("song.json", "[]", "expected an object, got list"),
        ("song.json", "[" * 100_000, "not JSON"),
        ("song.json", "", "not JSON"),
        ("song.json", b'{"a": "\xff"}', "not UTF-8 text (byte 7), save as UTF-8"),
        ("song.json", b" " * (MAX_JSON_BYTES + 1), f"more than {MAX_JSON_BYTES} bytes"),
        ("song.txt", b"x" * (MAX_TEXT_BYTES + 1), f"more than {MAX_TEXT_BYTES} bytes"),
        ("song.txt", "wide".encode("utf-16"), "not UTF-8 text (byte 0), save as UTF-8"),
    ],
    ids=["half", "list", "deep", "empty", "latin-1", "huge", "long", "utf-16"],
)
def test_a_faulty_side_car_is_told_and_says_nothing(tmp_path, name, data, message):
    said, (problem,) = read(tmp_path, name, data)
    assert said == []
    assert problem.startswith(f"a/{name}: ")
    assert message in problem


def test_a_side_car_that_vanished_is_told(tmp_path):
    said, problems = read_side_cars(tmp_path, [("song.txt", "song.wav")])
    assert (said, problems) == ({}, ["song.txt: not used: No such file or directory"])


def test_a_wrong_value_costs_only_itself(tmp_path):
    text = '{"bpm": "fast", "key": "C", "nested": {"a": 1}, "mixed": ["a", ["b"]]}'
    ((_, fields),), problems = read(tmp_path, "song.json", text)
    assert fields == {"key": "C"}
    assert problems == [
        "a/song.json: 'nested' is no text, number or list of them, not used",
        "a/song.json: 'mixed' is no text, number or list of them, not used",
        "a/song.json: tempo_bpm must be a number from 20 to 400, got 'fast', not used",
    ]


def test_an_empty_text_says_nothing(tmp_path):
    assert read(tmp_path, "song.txt", "\n \n") == ([("a/song.txt", {})], [])
