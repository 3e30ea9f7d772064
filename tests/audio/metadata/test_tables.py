"""Laws of metadata tables: nothing outside the folder, nothing invented, nothing fatal."""

import csv
import io
import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.metadata.collect import read_tables
from melodac.audio.metadata.fields import canonical_name, clean_text

KNOWN = {"a.wav", "b/c.wav"}


def read(root, *names):
    """For each path the fields of each table, most binding first; and the problems."""
    said, problems = read_tables(root, names, KNOWN)
    return {
        path: [dict(one.fields) for one in all_said] for path, all_said in said.items()
    }, problems


def read_csv(root, text):
    (root / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(root, "metadata.csv")


def read_json(root, *lines):
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return read(root, "metadata.jsonl")


def test_columns_become_fields(tmp_path):
    found, problems = read_csv(
        tmp_path,
        'file_name,tags,group,licence,tempo_bpm\na.wav,"calm, piano",one,CC0,90\n./b/c.wav,,,,\n',
    )
    assert problems == []
    first = {"tags": "calm, piano", "group": "one", "licence": "CC0", "tempo_bpm": "90"}
    assert found == {"a.wav": [first], "b/c.wav": [{}]}


@pytest.mark.parametrize(
    "text",
    [b"\xef\xbb\xbffile_name,tags\na.wav,x\n", b"file_name,tags\r\na.wav,x\r\n",
     b"file_name,tags\na.wav,x", b"\n".join([b"file_name,tags", b"", b"a.wav,x", b""])],
    ids=["BOM", "CRLF", "no final newline", "blank lines"],
)  # fmt: skip
def test_spreadsheet_habits_are_fine(tmp_path, text):
    found, problems = read_csv(tmp_path, text)
    assert (found, problems) == ({"a.wav": [{"tags": "x"}]}, [])


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
    assert found == {"a.wav": [{"tags": "y"}]}


def test_a_second_row_for_a_file_is_told(tmp_path):
    found, problems = read_csv(tmp_path, "file_name,tags\na.wav,x\na.wav,y\n")
    assert found == {"a.wav": [{"tags": "x"}]}
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
        '{"file_name": "a.wav", "tags": ["calm", null, "piano"], "tempo": 90.0, "license": "CC0", "key": null}',
        "",
        '{"file_name": "b/c.wav", "title": "line\u2028separator", "live": true, "odd": "\\ud800", "far": 1e999}',
    )
    assert problems == []
    assert found["a.wav"] == [{"tags": "calm, piano", "tempo_bpm": "90", "licence": "CC0"}]
    assert found["b/c.wav"] == [{"title": "line separator", "live": "true", "odd": "?"}]


def test_a_value_that_is_no_text_is_told_and_costs_only_itself(tmp_path):
    deep = "[" * 900 + "]" * 900  # parsed by Python, and deeper than Python can walk
    line = f'{{"file_name": "a.wav", "tags": "x", "who": {{"name": "Ann"}}, "deep": {deep}}}'
    found, problems = read_json(tmp_path, line)
    assert found == {"a.wav": [{"tags": "x"}]}
    assert problems == [
        f"metadata.jsonl line 1: '{name}' is no text, number or list of them, not used"
        for name in ("who", "deep")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "not JSON"), ("[1]", "expected an object, got list"), ("{}", "no file_name"),
     ('{"file_name": 7}', "is not an audio file"), ("[" * 100_000, "not JSON"),
     ('{"file_name": "a.wav", "x": NaN}', "NaN is not a value"),
     ('{"file_name": "a.wav", "x": ' + "1" * 5000 + "}", "not JSON"),
     ('{"file_name": "a.wav", "x": 1, "x": 2}', "two fields have one name")],
    ids=["half", "list", "nameless", "number", "deep", "NaN", "huge", "twice"],
)  # fmt: skip
def test_a_bad_json_line_costs_only_itself(tmp_path, line, message):
    found, problems = read_json(tmp_path, line, '{"file_name": "a.wav", "tags": "x"}')
    assert found == {"a.wav": [{"tags": "x"}]}
    assert len(problems) == 1
    assert problems[0].startswith("metadata.jsonl line 1: ")
    assert message in problems[0]


def test_the_nearest_table_binds_most_and_csv_before_jsonl(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b/c.wav", "tags": "3"}')
    (tmp_path / "metadata.csv").write_text("file_name,tags\nb/c.wav,2\n")
    (tmp_path / "b" / "metadata.csv").write_text("file_name,tags\nc.wav,1\n")
    names = ["metadata.csv", "metadata.jsonl", "b/metadata.csv"]
    for order in permutations(names):
        said, problems = read_tables(tmp_path, order, KNOWN)
        assert problems == []
        assert [(one.source, one.fields["tags"]) for one in said["b/c.wav"]] == [
            ("b/metadata.csv", "1"), ("metadata.csv", "2"), ("metadata.jsonl", "3"),
        ]  # fmt: skip


def test_names_are_relative_to_the_table(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metadata.csv").write_text("file_name,tags\na.wav,x\nc.wav,y\n")
    found, problems = read(tmp_path, "b/metadata.csv")
    assert found == {"b/c.wav": [{"tags": "y"}]}
    assert problems == [
        "b/metadata.csv line 2: 'a.wav' is not an audio file in the folder, row not used"
    ]


def test_a_name_is_found_however_its_accents_are_composed(tmp_path):
    apart, whole = "cafe\u0301.wav", "caf\u00e9.wav"
    (tmp_path / "metadata.csv").write_text(f"file_name,tags\n{whole},x\n")
    assert list(read_tables(tmp_path, ["metadata.csv"], {apart})[0]) == [apart]
    assert list(read_tables(tmp_path, ["metadata.csv"], {apart, whole})[0]) == [whole]


def test_a_table_that_cannot_be_opened_is_told(tmp_path):
    assert read(tmp_path, "metadata.csv") == (
        {},
        ["metadata.csv: not used: No such file or directory"],
    )


WORDS = st.text(min_size=1).map(clean_text).filter(bool)
FIELD_NAMES = WORDS.map(canonical_name).filter(
    lambda name: name and name not in {"file_name", "copyright", "tempo_bpm"}
)


@given(st.dictionaries(FIELD_NAMES, WORDS))
def test_fields_survive_csv_and_json_alike(tmp_path_factory, fields):
    root = tmp_path_factory.mktemp("metadata")
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file_name", *fields])
    writer.writerow(["a.wav", *fields.values()])
    for found, problems in (
        read_csv(root, table.getvalue()),
        read_json(root, json.dumps({"file_name": "a.wav", **fields})),
    ):
        assert problems == []
        assert found == {"a.wav": [fields]}
