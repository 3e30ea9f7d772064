"""Laws of the metadata files: nothing outside the folder, nothing invented, nothing fatal."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.metadata import TrackMetadata, read_metadata

KNOWN = {"a.wav", "b/c.wav"}


def read_csv(root, text):
    (root / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_metadata(root, ["metadata.csv"], KNOWN)


def read_json(root, *lines):
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return read_metadata(root, ["metadata.jsonl"], KNOWN)


def test_columns_become_tags_with_their_source(tmp_path):
    found, problems = read_csv(
        tmp_path,
        'file_name,tags,group,licence,tempo_bpm\na.wav,"calm, piano",one,CC0,90\n./b/c.wav,,,,\n',
    )
    assert problems == []
    sources = dict.fromkeys(("tags", "group", "licence", "tempo_bpm"), "metadata.csv")
    tags = {"tags": "calm, piano", "tempo_bpm": "90"}
    assert found["a.wav"] == TrackMetadata("one", "CC0", tags, sources)
    assert found["b/c.wav"] == TrackMetadata()


@pytest.mark.parametrize(
    "text",
    [b"\xef\xbb\xbffile_name,tags\na.wav,x\n", b"file_name,tags\r\na.wav,x\r\n",
     b"file_name,tags\na.wav,x", b"\n".join([b"file_name,tags", b"", b"a.wav,x", b""])],
    ids=["BOM", "CRLF", "no final newline", "blank lines"],
)  # fmt: skip
def test_spreadsheet_habits_are_fine(tmp_path, text):
    found, problems = read_csv(tmp_path, text)
    assert (found["a.wav"].tags, problems) == ({"tags": "x"}, [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.wav", "points outside the folder"),
        ("/etc/passwd", "points outside the folder"),
        ("b/../a.wav", "points outside the folder"),
        ("a.wav\0", "is not an audio file in the folder"),
        ("missing.wav", "is not an audio file in the folder"),
        ("=cmd()", "is not an audio file in the folder"),
        ("", "no file_name"),
        ("a.wav,1,2,3,4", "6 cells for 2 columns"),
        ("x" * 140_000, "not CSV: field larger than field limit"),
    ],
    ids=lambda text: text[:12],
)
def test_a_bad_row_is_told_with_its_line_and_costs_only_itself(tmp_path, name, message):
    found, problems = read_csv(tmp_path, f"file_name,tags\n{name},x\na.wav,y\n")
    assert len(problems) == 1
    assert problems[0].startswith("metadata.csv line 2: ")
    assert message in problems[0]
    assert found["a.wav"].tags == {"tags": "y"}


def test_a_second_row_for_a_file_is_told(tmp_path):
    found, problems = read_csv(tmp_path, "file_name,tags\na.wav,x\na.wav,y\n")
    assert found["a.wav"].tags == {"tags": "x"}
    assert problems == ["metadata.csv line 3: 'a.wav' is described in line 2 already, row not used"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path;tags\na.wav;x\n", "no column 'file_name', its columns are: path;tags"),
        (b"", "no column 'file_name'"),
        (b"file_name,tags\na.wav,caf\xe9\n", r"not UTF-8 text (byte 24), save as UTF-8"),
        (b"file_name,tags,tags\na.wav,x,y\n", "two columns have one name"),
    ],
    ids=["semicolons", "empty", "latin-1", "twice"],
)
def test_a_useless_file_is_told_and_not_fatal(tmp_path, text, message):
    found, problems = read_csv(tmp_path, text)
    assert found == {}
    assert len(problems) == 1
    assert message in problems[0]


def test_json_values_become_text(tmp_path):
    found, problems = read_json(
        tmp_path,
        '{"file_name": "a.wav", "tags": ["calm", "piano"], "tempo": 90, "license": "CC0", "key": null}',
        "",
        '{"file_name": "b/c.wav", "title": "line\u2028separator", "live": true, "odd": "\\ud800"}',
    )
    assert problems == []
    assert found["a.wav"].tags == {"tags": "calm, piano", "tempo": "90"}
    assert found["a.wav"].licence == "CC0"
    assert found["b/c.wav"].tags == {"title": "line\u2028separator", "live": "true", "odd": "?"}


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "not JSON"), ("[1]", "expected an object, got list"), ("{}", "no file_name"),
     ('{"file_name": 7}', "is not an audio file"), ("[" * 100_000, "not JSON")],
    ids=["half", "list", "nameless", "number", "deep"],
)  # fmt: skip
def test_a_bad_json_line_costs_only_itself(tmp_path, line, message):
    found, problems = read_json(tmp_path, line, '{"file_name": "a.wav", "tags": "x"}')
    assert found["a.wav"].tags == {"tags": "x"}
    assert len(problems) == 1
    assert problems[0].startswith("metadata.jsonl line 1: ")
    assert message in problems[0]


def test_the_first_file_stands_and_the_second_fills_gaps(tmp_path):
    (tmp_path / "metadata.csv").write_text("file_name,tags,key\na.wav,x,\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "tags": "y", "key": "C"}')
    found, _ = read_metadata(tmp_path, ["metadata.csv", "metadata.jsonl"], KNOWN)
    assert found["a.wav"].tags == {"tags": "x", "key": "C"}
    assert found["a.wav"].sources == {"tags": "metadata.csv", "key": "metadata.jsonl"}


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(
    lambda text: text.strip() == text
)


@given(
    st.dictionaries(
        WORDS.filter(lambda k: k not in {"file_name", "group", "licence", "license"}), WORDS
    )
)
def test_tags_survive_csv_and_json(tmp_path_factory, tags):
    root = tmp_path_factory.mktemp("metadata")
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file_name", *tags])
    writer.writerow(["a.wav", *tags.values()])
    for found, problems in (
        read_csv(root, table.getvalue()),
        read_json(root, json.dumps({"file_name": "a.wav", **tags})),
    ):
        assert problems == []
        assert found["a.wav"].tags == tags
