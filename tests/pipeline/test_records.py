"""What stages hand each other survives the way to disk and back, whole or not at all."""

import math

import pytest

from melodac.errors import OutputError
from pipeline.records import (
    NormalizedRecord,
    TrackRecord,
    read_catalogue,
    read_json,
    read_normalized,
    write_catalogue,
    write_json,
    write_normalized,
    write_text,
)


def track(name):
    return TrackRecord(
        id=f"{name:0>16}",
        path=f"folder/{name}.flac",
        group=name,
        split="train",
        duration_s=1.5,
        sample_rate_hz=44100,
        num_channels=2,
        decoder="libsndfile",
        audio_sha256="0" * 64,
        loudness_lufs=-16.25,
        peak_dbfs=-1.0,
        tags={"tags": "piano, <b>slow</b>", "key": "C"},
        tag_sources={"tags": "metadata.csv", "key": "metadata.csv"},
        licence="CC0-1.0",
    )


def test_catalogue_comes_back_sorted_by_path(tmp_path):
    path = tmp_path / "catalogue.parquet"
    write_catalogue(path, [track("b"), track("a")])
    assert read_catalogue(path) == [track("a"), track("b")]


def test_catalogue_is_the_same_bytes_for_any_order(tmp_path):
    write_catalogue(tmp_path / "one", [track("b"), track("a")])
    write_catalogue(tmp_path / "two", [track("a"), track("b")])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_normalized_table_comes_back(tmp_path):
    row = NormalizedRecord(
        id="a",
        sha256="0" * 64,
        num_samples=44100,
        num_channels=2,
        start_sample=100,
        gain_db=3.0,
        loudness_before_lufs=-19.0,
        loudness_after_lufs=-16.0,
        peak_dbtp=-2.0,
        is_gain_capped=False,
    )
    write_normalized(tmp_path / "table", [row])
    assert read_normalized(tmp_path / "table") == [row]


def test_json_refuses_not_a_number(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "metrics.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "deep" / "metrics.json", {"loss": 1.5, "missing": None})
    assert read_json(tmp_path / "deep" / "metrics.json") == {"loss": 1.5, "missing": None}


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "file" / "report.csv", "text")
