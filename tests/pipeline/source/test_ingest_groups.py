"""Laws of what ingest keeps together: copies once, what sounds alike in one group, nothing parted."""

import csv

import numpy as np
import pytest
import soundfile

from melodac.audio.files.write import write_flac
from melodac.errors import LeakError
from pipeline import paths
from pipeline.processes.workers import WorkerCrash, WorkerOutOfMemory, WorkerTimeout
from pipeline.records import read_catalogue
from pipeline.stages import ingest
from tests.pipeline.music_folder import RATE_HZ, params_for, write_track

FREE = {"min_validation_s": 0.0}


@pytest.fixture
def music(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "music").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path / "music"


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row.pop("path"): row for row in csv.DictReader(file)}


def verdicts():
    return {
        path: (row["verdict"], row["reason"]) for path, row in rows(paths.INGEST_REPORT).items()
    }


def song(seed, duration_s=6.0):
    """Notes that come and go: what a fingerprint can hold on to."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(int(duration_s * RATE_HZ))
    for start in range(0, len(sound) - RATE_HZ // 4, RATE_HZ // 6):
        time_s = np.arange(min(RATE_HZ, len(sound) - start)) / RATE_HZ
        pitch_hz = 110.0 * 2.0 ** (rng.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 6))
        sound[start : start + len(time_s)] += note * np.exp(-4.0 * time_s)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)[None]


def write_songs(music, count=4):
    for seed in range(count):
        write_flac(music / f"song_{seed}.flac", song(seed), RATE_HZ, "PCM_16")


def test_the_same_recording_in_another_container_is_kept_once(music):
    write_songs(music)
    sound, rate_hz = soundfile.read(music / "song_0.flac", dtype="int16")
    soundfile.write(music / "take.wav", sound, rate_hz)
    outcome = ingest.run(params_for(music, ingest=FREE))
    assert verdicts()["take.wav"] == ("reject", "same recording as: song_0.flac")
    assert outcome.metrics["accepted"] == 4


def test_what_sounds_alike_is_kept_in_one_group_and_said(music):
    write_songs(music)
    soundfile.write(music / "lossy.ogg", 0.5 * song(1)[0, RATE_HZ // 2 :], RATE_HZ)
    outcome = ingest.run(params_for(music, ingest=FREE))
    tracks = {track.path: track for track in read_catalogue(paths.CATALOGUE)}
    assert tracks["lossy.ogg"].group == tracks["song_1.flac"].group == "name:lossy"
    groups = rows(paths.INGEST_GROUPS)
    assert list(groups) == sorted(tracks)
    assert groups["song_1.flac"]["linked_by"].startswith("sounds like: lossy.ogg (0.9")
    assert groups["song_1.flac"]["split"] == groups["lossy.ogg"]["split"]
    assert groups["song_0.flac"]["linked_by"] == ""
    assert (outcome.metrics["near_duplicates"], outcome.metrics["groups"]) == (2, 4)


def test_the_search_for_what_sounds_alike_can_be_turned_off(music):
    write_songs(music)
    soundfile.write(music / "lossy.ogg", song(1)[0], RATE_HZ)
    params = params_for(music, ingest=FREE | {"near_duplicate_similarity": 0.0})
    assert ingest.run(params).metrics["groups"] == 5


def test_albums_groups_and_names_keep_tracks_together(music):
    for seed in range(6):
        write_track(music / f"{seed}.wav", seed)
    write_track(music / "5.flac", 15)
    (music / "metadata.csv").write_text(
        "file_name,album,album_artist,group\n0.wav,Songs,Ann,\n1.wav,Songs,Ann,x\n2.wav,,,x\n"
    )
    ingest.run(params_for(music, ingest=FREE))
    groups = rows(paths.INGEST_GROUPS)
    assert {path: (row["group"], row["linked_by"]) for path, row in groups.items()} == {
        "0.wav": ("album:ann/songs", "album"),
        "1.wav": ("album:ann/songs", "album; group"),
        "2.wav": ("album:ann/songs", "group"),
        "3.wav": ("name:3", ""),
        "4.wav": ("name:4", ""),
        "5.flac": ("name:5", "name"),
        "5.wav": ("name:5", "name"),
    }
    ingest.run(params_for(music, ingest=FREE | {"group_by": []}))
    assert rows(paths.INGEST_GROUPS)["1.wav"]["group"] == "name:1"


def test_tags_keep_tracks_out_with_a_reason(music):
    for seed in range(5):
        write_track(music / f"{seed}.wav", seed)
    (music / "metadata.csv").write_text('file_name,tags\n0.wav,"calm, vocals"\n1.wav,calm\n')
    ingest.run(params_for(music, ingest=FREE | {"skip_tags": ["vocals"]}))
    verdict, reason = verdicts()["0.wav"]
    assert verdict == "reject"
    assert "'vocals'" in reason
    assert "ingest.skip_tags" in reason
    assert verdicts()["1.wav"] == ("accept", "")


def test_licences_are_counted_and_unknown_ones_warned_of(music, caplog):
    for seed in range(4):
        write_track(music / f"{seed}.wav", seed)
    (music / "metadata.csv").write_text("file_name,licence\n0.wav,CC0 1.0\n1.wav,CC0-1.0\n")
    outcome = ingest.run(params_for(music, ingest=FREE))
    assert outcome.metrics["licences"] == {
        "CC0-1.0": {"tracks": 2, "seconds": 2.4},
        "unknown": {"tracks": 2, "seconds": 2.4},
    }
    assert "licence unknown: 2 tracks" in caplog.text


def test_a_split_that_parts_a_group_ends_the_stage_with_nothing_written(music, monkeypatch):
    write_songs(music)
    soundfile.write(music / "lossy.ogg", song(1)[0], RATE_HZ)
    catalogue = ingest._catalogue

    def corrupted(*arguments):
        tracks = catalogue(*arguments)
        other = "test" if tracks[0].split != "test" else "train"
        return [tracks[0].model_copy(update={"split": other}), *tracks[1:]]

    monkeypatch.setattr(ingest, "_catalogue", corrupted)
    with pytest.raises(LeakError, match=r"lossy\.ogg \(.*song_1\.flac \("):
        ingest.run(params_for(music, ingest=FREE))
    assert not paths.CATALOGUE.parent.exists()


def test_added_music_leaves_the_others_in_their_split(music):
    for seed in range(30):
        write_track(music / f"{seed}.wav", seed)
    ingest.run(params_for(music, workers=2, ingest=FREE))
    before = {track.path: track.split for track in read_catalogue(paths.CATALOGUE)}
    write_track(music / "new.wav", 99)
    ingest.run(params_for(music, workers=2, ingest=FREE))
    after = {track.path: track.split for track in read_catalogue(paths.CATALOGUE)}
    assert after.pop("new.wav") in {"train", "validation", "test"}
    assert after == before


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (WorkerCrash(), "damaged: the decoder crashed on it"),
        (WorkerTimeout(), "too slow: not decoded within 600 s (ingest.file_timeout_s)"),
        (
            WorkerOutOfMemory(),
            "too large: needs more than 1024 MB to decode (ingest.file_memory_mb)",
        ),
    ],
    ids=["crash", "hang", "bomb"],
)
def test_what_a_worker_fails_on_costs_one_file_and_is_tried_again(
    music, monkeypatch, failure, reason
):
    for seed in range(4):
        write_track(music / f"{seed}.wav", seed)

    def failing(function, items, **limits):
        assert limits == {"workers": 1, "timeout_s": 600.0, "memory_mb": 1024}
        return (failure if item.stem == "2" else function(item) for item in items)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "map_in_workers", failing)
        ingest.run(params_for(music, ingest=FREE))
    assert verdicts()["2.wav"] == ("reject", reason)
    assert ingest.run(params_for(music, ingest=FREE)).metrics["accepted"] == 4
