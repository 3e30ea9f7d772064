"""Laws of fields: one name for each meaning, one line of inert text, complaints instead of guesses."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.metadata.fields import (
    MAX_FIELDS,
    MAX_RAW_CHARS,
    MAX_VALUE_CHARS,
    SYNONYMS,
    canonical_name,
    clean_fields,
    clean_text,
)

ANY_TEXT = st.text(st.characters())  # lone surrogates too


@given(ANY_TEXT)
def test_clean_text_is_one_line_that_any_file_and_terminal_holds(text):
    clean = clean_text(text)
    clean.encode("utf-8")
    assert clean.splitlines() in ([], [clean])
    assert not any(unicodedata.category(char) in {"Cc", "Cs"} for char in clean)
    assert clean_text(clean) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  two\r\n\tlines ", "two lines"),
        ("=cmd()|'/c calc'!A0", "=cmd()|'/c calc'!A0"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("red \x1b[31malert\x07", "red [31malert"),
        ("gpj.\u202e3pm", "gpj.3pm"),
        ("a\0b", "ab"),
        ("👩\u200d🎤 \u05e0\u200c\u05de", "👩\u200d🎤 \u05e0\u200c\u05de"),
    ],
    ids=["lines", "formula", "HTML", "escape", "direction", "NUL", "joiners"],
)
def test_what_is_shown_stays_and_what_acts_goes(text, clean):
    assert clean_text(text) == clean


@given(ANY_TEXT)
def test_a_name_has_one_spelling(name):
    once = canonical_name(name)
    assert canonical_name(once) == once
    assert canonical_name(f" {name.upper().lower()} ") == canonical_name(name.upper().lower())


def test_synonyms_lead_to_names_that_stay():
    assert {canonical_name(spelling) for spelling in SYNONYMS} == set(SYNONYMS.values())
    assert not set(SYNONYMS) & set(SYNONYMS.values())


@pytest.mark.parametrize(
    ("given_tempo", "kept"),
    [("120", "120"), ("120.0", "120"), ("92,5 BPM", "92.5"), ("20", "20"), ("400", "400")],
)
def test_a_tempo_is_a_number_of_beats_a_minute(given_tempo, kept):
    assert clean_fields([("BPM", given_tempo)]) == ({"tempo_bpm": kept}, [])


@pytest.mark.parametrize("unknown", ["0", "0.0", "000", "", "  "])
def test_a_tempo_of_zero_is_unknown(unknown):
    assert clean_fields([("tempo", unknown)]) == ({}, [])


@pytest.mark.parametrize(
    "wrong", ["fast", "19.9", "401", "-90", "1e2", "nan", "inf", "90-120", "٩٠"]
)
def test_a_wrong_tempo_is_told_and_missing(wrong):
    fields, complaints = clean_fields([("bpm", wrong), ("key", "C")])
    assert fields == {"key": "C"}
    assert complaints == [f"tempo_bpm must be a number from 20 to 400, got {wrong!r}, not used"]


def test_of_two_spellings_the_first_stands_and_a_difference_is_told():
    assert clean_fields([("bpm", "90"), ("tempo", "90.0")]) == ({"tempo_bpm": "90"}, [])
    fields, complaints = clean_fields([("licence", "CC0"), ("License", "mine")])
    assert fields == {"licence": "CC0"}
    assert complaints == ["licence is given twice, 'mine' not used"]


def test_long_values_are_cut_and_told():
    longest = "x" * MAX_VALUE_CHARS
    assert clean_fields([("a", longest)]) == ({"a": longest}, [])
    for length in (MAX_VALUE_CHARS + 1, 3 * MAX_RAW_CHARS):
        fields, complaints = clean_fields([("a", "x" * length)])
        assert fields == {"a": longest}
        assert complaints == [f"a has more than {MAX_VALUE_CHARS} characters, cut"]


def test_long_names_and_too_many_are_told():
    fields, (complaint,) = clean_fields([("n" * 101, "x"), ("a", "y")])
    assert fields == {"a": "y"}
    assert "is a name of more than 100 letters" in complaint
    fields, complaints = clean_fields((f"f{n}", "x") for n in range(MAX_FIELDS + 5))
    assert len(fields) == MAX_FIELDS
    assert complaints == [f"more than {MAX_FIELDS} fields, the rest not used"]


def test_a_file_name_is_never_a_field():
    assert clean_fields([("file_name", "Epic Song.wav"), ("File-Name", "x"), ("", "y")]) == ({}, [])


def test_a_copyright_that_names_a_licence_gives_it_where_none_is_given():
    words = "2011 Kevin, see http://creativecommons.org/licenses/by/3.0/"
    fields, _ = clean_fields([("copyright", words)])
    assert fields == {"copyright": words, "licence": "CC-BY-3.0"}
    assert clean_fields([("copyright", words), ("licence", "own")])[0]["licence"] == "own"
    assert "licence" not in clean_fields([("copyright", "© 2011 Kevin")])[0]


@pytest.mark.parametrize(
    ("number", "kept"), [("3/12", {"track_number": "3"}), ("07", {"track_number": "7"}), ("0", {})]
)
def test_a_track_number_is_its_own_without_the_total(number, kept):
    assert clean_fields([("tracknumber", number)]) == (kept, [])
