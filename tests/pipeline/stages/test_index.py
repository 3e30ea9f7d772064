"""Laws of the index stage: what it decides is what training reads, and everything odd is told."""

import csv
import json
import logging

import numpy as np
import pytest

from melodac.errors import EmptySplitError
from melodac.token_files.store_writer import write_store
from melodac.tokens.store.header import TrackCodes
from melodac.tokens.windows import Bars
from pipeline import paths
from pipeline.experiment.dataset import read_dataset
from pipeline.indexing import find_bars
from pipeline.records import write_catalogue
from pipeline.stages import index
from tests.pipeline.music_folder import params_for
from tests.pipeline.token_workplace import lay_out, make_header, make_record
from tests.tokens.store.stores import source_of

FRAME_RATE_HZ = 44100 / 512


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_index(**changes):
    given = {"window_frames": 32, "min_track_frames": 32} | changes
    return index.run(params_for("music", index=given))


def read_tracks():
    with paths.INDEX_TRACKS.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_frame_is_seen_and_every_number_is_there():
    records = lay_out(make_header())
    outcome = run_index()
    metrics = outcome.metrics
    assert outcome.counts == {"train tracks": 3, "validation tracks": 1, "test tracks": 1}
    assert metrics["frames_seen_share"] == 1.0
    assert 0 < metrics["starts_seen_share_8_epochs"] <= 1.0
    assert metrics["train_codes"] == 300 * 2
    assert metrics["codes_per_parameter"]["nano"] > metrics["codes_per_parameter"]["xl"] > 0
    assert [row["id"] for row in read_tracks()] == [record.id for record in records]
    assert (
        sum(int(row["windows"]) for row in read_tracks() if row["split"] == "train")
        == (metrics["windows_per_epoch"])
    )
    baselines = json.loads(paths.BASELINES.read_text())
    assert baselines["columns"] == ["mono 0", "mono 1"]
    assert set(baselines["sizes"]) == {"nano", "micro", "small", "base", "large", "xl"}


def test_two_runs_write_the_same_bytes():
    lay_out(make_header())
    written = []
    for _ in range(2):
        run_index()
        written.append([f.read_bytes() for f in (paths.INDEX, paths.BASELINES, paths.INDEX_TRACKS)])
    assert written[0] == written[1]


def test_a_dataset_starts_windows_where_the_index_says():
    tags = [{"tempo_bpm": "120"}, {"tempo_bpm": "90", "time_signature": "3/4"}, {}, {}, {}]
    records = lay_out(make_header(), lengths=(1000, 1000, 500, 90, 90), tags=tags)
    outcome = run_index(align="bar", offsets="fixed", window_frames=256)
    starts = read_dataset("concatenated").index.starts("train")
    assert starts.is_fixed
    bar = Bars(0.0, 2.0 * FRAME_RATE_HZ)  # 4 quarters at 120, 3 quarters at 90: both 2 s
    assert dict(zip(read_dataset("concatenated").split("train").track_ids, starts.bars, strict=True)) == {
        records[0].id: bar, records[1].id: bar, records[2].id: None,
    }  # fmt: skip
    assert outcome.metrics["tracks_on_bars"] == 2


def test_settings_that_change_windows_change_the_fingerprint():
    tags = [{"tempo_bpm": "120"}, {}, {}, {}, {}]
    lay_out(make_header(), lengths=(1000, 90, 90, 90, 90), tags=tags)
    found = set()
    for changes in ({}, {"offsets": "fixed"}, {"align": "bar"}, {"window_frames": 64}):
        run_index(**changes)
        found.add(json.loads(paths.INDEX.read_text())["fingerprint"])
    lay_out(make_header(), lengths=(1000, 90, 90, 90, 90), tags=[{"tempo_bpm": "121"}, *tags[1:]])
    run_index(align="bar")
    found.add(json.loads(paths.INDEX.read_text())["fingerprint"])
    assert len(found) == 5


def test_starts_that_fixed_windows_never_use_are_told(caplog):
    lay_out(make_header())
    run_index(offsets="fixed")
    # tracks of 100, 80, 120 frames: 69 + 49 + 89 starts, 4 + 3 + 4 windows
    assert "196 of 207 starts are never used" in caplog.text


def test_tracks_without_a_tempo_are_counted_by_reason(caplog):
    caplog.set_level(logging.INFO)
    tags = [{"tempo_bpm": "fast"}, {}, {"tempo_bpm": "100", "time_signature": "odd"}, {}, {}]
    lay_out(make_header(), tags=tags)
    outcome = run_index(align="bar")
    assert outcome.metrics["tracks_on_bars"] == 0
    assert "1 training tracks have windows anywhere: no tempo_bpm" in caplog.text
    assert "1 training tracks have windows anywhere: tempo_bpm is no number" in caplog.text
    assert "1 training tracks have windows anywhere: time_signature is not like 4/4" in caplog.text


def test_frames_that_no_window_on_a_bar_reaches_are_told(caplog):
    lay_out(
        make_header(), lengths=(1000, 90, 90, 90, 90), tags=[{"tempo_bpm": "120"}, {}, {}, {}, {}]
    )
    outcome = run_index(align="bar")
    assert outcome.metrics["frames_seen_share"] < 0.5
    assert "rest of a bar longer than a window (longest bar: 172.3 frames" in caplog.text


def test_short_tracks_and_tracks_without_codes_are_told():
    records = lay_out(make_header(), lengths=(100, 31, 120, 90, 90))
    write_catalogue(paths.CATALOGUE, [*records, make_record(9)])
    outcome = run_index()
    assert outcome.skipped == {index.SHORT: 1, index.NOT_ENCODED: 1}
    assert [row["windows"] == "0" for row in read_tracks()] == [False, True, False, False, False]


def test_a_split_of_short_tracks_is_refused():
    lay_out(make_header(), lengths=(100, 80, 120, 31, 90))
    with pytest.raises(EmptySplitError, match="validation split has no track of 32 frames"):
        run_index()


def test_a_stuck_track_is_named(caplog):
    header = make_header()
    records = lay_out(header)
    generator = np.random.default_rng(0)
    tracks = [generator.integers(0, 1024, (2, 100), dtype=np.uint16) for _ in records]
    tracks[2][:] = 7
    write_store(
        paths.TOKENS,
        header,
        [source_of(TrackCodes(r.id, c)) for r, c in zip(records, tracks, strict=True)],
        frames_per_shard=4096,
    )
    assert run_index().metrics["outlier_tracks"] == 1
    assert "2.flac is unlike the other tracks" in caplog.text
    assert [row["is_outlier"] for row in read_tracks()] == [
        "False",
        "False",
        "True",
        "False",
        "False",
    ]


@pytest.mark.parametrize(
    ("start_sample", "tags", "first"),
    [
        (0, {"tempo_bpm": "120"}, 0.0),
        (88200, {"tempo_bpm": "120"}, 0.0),  # one bar cut off
        (44100, {"tempo_bpm": "120"}, 1.0),  # half a bar cut off: the next line is 1 s later
        (1, {"tempo_bpm": "120", "time_signature": "6/8"}, 1.5 - 1 / 44100),
        (0, {"tempo_bpm": "120", "time_signature": "5"}, 0.0),
    ],
)
def test_bars_count_from_the_start_of_the_recording(start_sample, tags, first):
    record = make_record(0, num_frames=500, **tags)
    found = find_bars(
        [record],
        make_header(),
        start_samples={record.id: start_sample},
        num_frames={record.id: 500},
    )
    assert found.bars[record.id].first == pytest.approx(first * FRAME_RATE_HZ, abs=1e-6)


def test_a_track_that_ends_before_its_first_bar_line_has_none():
    record = make_record(0, num_frames=50, tempo_bpm="120")
    found = find_bars(
        [record], make_header(), start_samples={record.id: 44100}, num_frames={record.id: 50}
    )
    assert found.without == {"no bar line inside": [record.id]}
