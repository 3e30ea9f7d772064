"""Laws of verdicts: one a file, of equal recordings the first that may stay, tables without traps."""

import pytest

from melodac.audio.examine import Examination, Rejection
from melodac.audio.metadata.embedded import EmbeddedTags
from melodac.audio.scan import Entry
from melodac.errors import MelodacError
from pipeline.source.verdicts import Verdict, format_report, format_table, judge


def recording(file, sound):
    return Examination(
        sha256=file,
        audio_sha256=sound,
        num_samples=44_100,
        sample_rate_hz=44_100,
        num_channels=1,
        decoder="libsndfile",
        loudness_lufs=-16.0,
        peak_dbfs=-1.0,
        fingerprint=b"",
        embedded=EmbeddedTags(),
    )


EXAMINED = {
    "a.wav": recording("1", "x"),
    "b.wav": recording("1", "x"),
    "c.flac": recording("2", "x"),
    "d.wav": Rejection("silent: never louder than -70 LUFS"),
    "e.wav": recording("3", "y"),
}
ENTRIES = [
    *(Entry(path, "audio") for path in EXAMINED),
    Entry("e.json", "side-car", "side-car of e.wav", beside="e.wav"),
    Entry("f", "reject", "file name: not UTF-8, rename it"),
    Entry("metadata.csv", "metadata", "metadata"),
]


def judged(reason_to_skip=lambda path: ""):
    return {v.path: (v.verdict, v.reason) for v in judge(ENTRIES, EXAMINED, reason_to_skip)}


def test_every_kind_of_file_has_its_verdict():
    assert judged() == {
        "a.wav": ("accept", ""),
        "b.wav": ("reject", "same audio file as: a.wav"),
        "c.flac": ("reject", "same recording as: a.wav"),
        "d.wav": ("reject", "silent: never louder than -70 LUFS"),
        "e.wav": ("accept", ""),
        "e.json": ("ignored", "side-car of e.wav"),
        "f": ("reject", "file name: not UTF-8, rename it"),
        "metadata.csv": ("ignored", "metadata"),
    }


def test_of_equal_recordings_the_first_that_tags_let_in_is_kept():
    found = judged(lambda path: "tags: lacks 'piano'" if path == "a.wav" else "")
    assert found["a.wav"] == ("reject", "tags: lacks 'piano'")
    assert found["b.wav"] == ("accept", "")
    assert found["c.flac"] == ("reject", "same recording as: b.wav")


def test_a_file_without_verdict_is_an_error():
    with pytest.raises(MelodacError, match=r"new\.wav: not examined"):
        judge([Entry("new.wav", "audio")], {}, lambda path: "")
    with pytest.raises(MelodacError, match="no verdict, or two"):
        judge([Entry("f", "reject", "x"), Entry("f", "reject", "x")], {}, lambda path: "")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_path_is_a_formula(name):
    table = format_table(("path", "verdict"), [(name, "accept")])
    assert table.startswith(("path,verdict\n./", 'path,verdict\n"./'))


def test_the_report_is_plain_csv():
    text = format_report([
        Verdict('a, "b".wav', "reject", "too short: 0.30 s"),
        Verdict("c", "accept"),
    ])
    assert text == 'path,verdict,reason\n"a, ""b"".wav",reject,too short: 0.30 s\nc,accept,\n'
