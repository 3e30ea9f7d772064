"""Laws of the ingest stage: every file one verdict, nothing invented, the same for any machine."""

import csv
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile

from melodac.errors import AudioError, EmptySplitError
from pipeline import paths
from pipeline.records import read_catalogue
from pipeline.stages import ingest
from tests.pipeline.music_folder import (
    RATE_HZ,
    ROOT,
    fingerprint_folder,
    params_for,
    tone,
    write_track,
)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "music").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def fill_with_everything(music):
    for seed in range(4):
        write_track(music / f"good_{seed}.wav", seed)
    write_track(music / "album" / "stereo.flac", 9, channels=2)
    (music / "twin.wav").write_bytes((music / "good_0.wav").read_bytes())
    (music / "lyrics.wav").write_text("la la la\n" * 100)
    (music / "zero.wav").touch()
    write_track(music / "short.wav", 5, 0.3)
    write_track(music / "long.wav", 6, 3.5)
    write_track(music / "silent.wav", 7, level=0.0)
    broken = tone(8)
    broken[0, 500] = np.nan
    soundfile.write(music / "nan.wav", broken.T, RATE_HZ, subtype="FLOAT")
    (music / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (music / "=formula().txt").touch()
    (music / "<img src=x onerror=alert(1)>.wav").write_bytes((music / "short.wav").read_bytes())
    (music / 'comma, "quote".jpg').touch()
    os.mkfifo(music / "pipe.wav")
    (music / "escape.wav").symlink_to("/etc/passwd")
    (music / "metadata.csv").write_text(
        "\ufefffile_name,tags,group,licence\r\n"
        'good_0.wav,"calm, piano",one,CC0-1.0\r\ngood_1.wav,,one,\r\n../x.wav,bad,,\r\n'
    )


def report():
    with paths.INGEST_REPORT.open(encoding="utf-8", newline="") as file:
        return {row["path"]: (row["verdict"], row["reason"]) for row in csv.DictReader(file)}


EXPECTED = {
    "./=formula().txt": ("ignored", "not audio"),
    "<img src=x onerror=alert(1)>.wav": (
        "reject", "too short: 0.30 s, at least 1 s are needed",
    ),
    "album/stereo.flac": ("accept", ""),
    'comma, "quote".jpg': ("ignored", "not audio"),
    "escape.wav": ("ignored", "link out of the folder, not followed"),
    "good_0.wav": ("accept", ""),
    "good_1.wav": ("accept", ""),
    "good_2.wav": ("accept", ""),
    "good_3.wav": ("accept", ""),
    "long.wav": ("reject", "too long: more than 3 s of music"),
    "lyrics.wav": (
        "reject",
        "not music: no format that can be decoded (Format not recognised), export it as WAV or FLAC",
    ),
    "metadata.csv": ("ignored", "metadata"),
    "nan.wav": ("reject", "non-finite: holds NaN or infinity from about 0 s on"),
    "pipe.wav": ("ignored", "named pipe, not a file"),
    "short.wav": ("reject", "too short: 0.30 s, at least 1 s are needed"),
    "silent.wav": ("reject", "silent: never louder than -70 LUFS"),
    "song.m4a": (
        "reject", "cut off: its header announces 32 bytes of sound, 12 are there (37.5 %)",
    ),
    "twin.wav": ("reject", "same audio file as: good_0.wav"),
    "zero.wav": ("reject", "empty: the file has 0 bytes"),
}  # fmt: skip
LIMITS = {"min_duration_s": 1.0, "max_duration_s": 3.0, "min_validation_s": 0.0}


def test_every_file_has_one_verdict_in_plain_words(workspace):
    music = workspace / "music"
    fill_with_everything(music)
    before = fingerprint_folder(music / "album")
    outcome = ingest.run(params_for(music, ingest=dict(LIMITS)))
    assert report() == EXPECTED
    assert list(report()) == sorted(report(), key=lambda path: path.removeprefix("./"))
    counted = Counter(verdict for verdict, _ in EXPECTED.values())
    metrics = outcome.metrics
    assert metrics["files_seen"] == len(EXPECTED)
    assert metrics["accepted"] == counted["accept"]
    assert metrics["rejected"] == counted["reject"]
    assert metrics["ignored"] == counted["ignored"]
    assert metrics["metadata_problems"] == 1
    assert sum(outcome.skipped.values()) == counted["reject"] + counted["ignored"]
    assert outcome.skipped["too short"] == 2
    assert fingerprint_folder(music / "album") == before


def test_the_catalogue_says_what_was_measured_and_what_was_told(workspace):
    music = workspace / "music"
    fill_with_everything(music)
    ingest.run(params_for(music, ingest=dict(LIMITS)))
    tracks = {track.path: track for track in read_catalogue(paths.CATALOGUE)}
    assert sorted(tracks) == sorted(path for path, (v, _) in EXPECTED.items() if v == "accept")
    first, stereo = tracks["good_0.wav"], tracks["album/stereo.flac"]
    assert (first.group, first.licence, first.tags) == (
        "group:one",
        "CC0-1.0",
        {"tags": "calm, piano"},
    )
    assert first.tag_sources == dict.fromkeys(("tags", "group", "licence"), "metadata.csv")
    assert tracks["good_1.wav"].split == first.split
    assert (stereo.group, stereo.num_channels, stereo.licence) == ("name:album/stereo", 2, "")
    assert stereo.duration_s == pytest.approx(1.2, abs=1e-4)
    assert (len(first.id), first.sample_rate_hz) == (16, RATE_HZ)
    assert -30 < first.loudness_lufs < -10
    assert first.peak_dbfs == pytest.approx(20 * np.log10(np.abs(tone(0)).max()), abs=0.01)
    assert {track.split for track in tracks.values()} == {"train", "validation", "test"}


def test_bytes_are_the_same_for_any_worker_count(workspace):
    fill_with_everything(workspace / "music")
    written = []
    for workers in (1, 3):
        ingest.run(params_for(workspace / "music", workers=workers, ingest=dict(LIMITS)))
        outputs = (paths.INGEST_REPORT, paths.INGEST_GROUPS, paths.CATALOGUE)
        written.append([path.read_bytes() for path in outputs])
        shutil.rmtree(".scratch")
    assert written[0] == written[1]


def test_source_is_found_from_a_copy_of_the_checkout(workspace, monkeypatch):
    for seed in range(3):
        write_track(workspace / "music" / f"{seed}.wav", seed)
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    params = params_for("music", ingest={"min_validation_s": 0.0})
    assert ingest.run(params).metrics["accepted"] == 3
    assert (workspace / ".scratch" / "ingest").is_dir()


def lyrics_only(music):
    for number in range(12):
        (music / f"{number}.wav").write_text("la la la")


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda music: music.rmdir(), "music: no such folder, set ingest.source"),
        (lambda music: (music.rmdir(), music.touch()), "music: neither a folder nor a listing"),
        (lambda music: None, "music: empty folder, put music into it"),
        (lyrics_only, r"none of 12 files can be used: not music \(12\)$"),
    ],
    ids=["missing", "file", "empty", "lyrics"],
)
def test_a_source_without_music_is_one_clear_line_and_nothing_written(workspace, fill, message):
    fill(workspace / "music")
    with pytest.raises(AudioError, match=message) as caught:
        ingest.run(params_for(workspace / "music"))
    assert "\n" not in str(caught.value)
    assert not (workspace / "checkout" / "data").exists()


def test_too_few_groups_is_one_clear_line_and_nothing_written(workspace):
    for seed in range(2):
        write_track(workspace / "music" / f"{seed}.wav", seed)
    with pytest.raises(EmptySplitError, match="got 2"):
        ingest.run(params_for(workspace / "music"))
    assert not (workspace / "checkout" / "data").exists()


def test_too_little_to_validate_with_is_one_clear_line_and_nothing_written(workspace):
    for seed in range(4):
        write_track(workspace / "music" / f"{seed}.wav", seed)
    with pytest.raises(
        EmptySplitError, match=r"at least 10 s are needed.*ingest\.min_validation_s"
    ):
        ingest.run(params_for(workspace / "music"))
    assert not (workspace / "checkout" / "data").exists()


SHARED_MUSIC = ROOT.parent / "shared" / "music"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_MUSIC.is_dir(), reason="no ../shared/music beside the checkout")
def test_every_real_recording_has_one_verdict(workspace):
    outcome = ingest.run(params_for(SHARED_MUSIC, workers=2))
    verdicts = report()
    audio = {
        path.relative_to(SHARED_MUSIC).as_posix()
        for path in SHARED_MUSIC.rglob("*")
        if path.suffix in {".flac", ".ogg"}
    }
    assert len(audio) == 199
    judged = {path for path, (verdict, _) in verdicts.items() if verdict != "ignored"}
    assert judged == audio
    assert {
        reason.partition(":")[0] for verdict, reason in verdicts.values() if verdict == "reject"
    } == {"too short"}
    assert outcome.metrics["metadata_problems"] == 0
    share = outcome.metrics["seconds"]["validation"] / (3600 * outcome.metrics["hours"])
    assert 0.049 < share < 0.21
