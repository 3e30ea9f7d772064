"""Laws of kept examinations: known files are not decoded, and no answer is ever another's."""

import os
import shutil

import pytest

from melodac.audio.examine import DurationLimits, Examination, Rejection
from melodac.errors import OutputError
from pipeline import paths
from pipeline.cache import examinations
from pipeline.cache.examinations import ExaminationCache, examine
from pipeline.stages import ingest
from tests.pipeline.music_folder import params_for, write_track

LIMITS = DurationLimits(1.0, 60.0)


@pytest.fixture
def cache(tmp_path):
    return ExaminationCache.of(tmp_path / "kept", LIMITS)


@pytest.fixture
def track(tmp_path):
    write_track(tmp_path / "track.flac", 1)
    return tmp_path / "track.flac"


@pytest.fixture
def decoded(monkeypatch):
    """Paths in the order they are decoded."""
    seen = []
    original = examinations.examine_file

    def watched(path, limits, sha256):
        seen.append(path.name)
        return original(path, limits, sha256)

    monkeypatch.setattr(examinations, "examine_file", watched)
    return seen


def entry_of(cache):
    (entry,) = cache.folder.rglob("*.json")
    return entry


def test_what_is_known_is_not_decoded_and_the_same(cache, track, decoded):
    first, second = examine(track, cache), examine(track, cache)
    assert decoded == ["track.flac"]
    assert (first.is_reused, second.is_reused) == (False, True)
    assert second.result == first.result
    assert isinstance(first.result, Examination)
    assert first.result.words.size > 0


def test_a_rejection_is_known_too(cache, tmp_path, decoded):
    path = tmp_path / "lyrics.wav"
    path.write_text("la la la\n" * 100)
    first, second = examine(path, cache), examine(path, cache)
    assert decoded == ["lyrics.wav"]
    assert isinstance(first.result, Rejection)
    assert second.result == first.result


def test_a_file_is_known_wherever_it_lies(cache, track, decoded, tmp_path):
    examine(track, cache)
    moved = track.rename(tmp_path / "moved.flac")
    assert examine(moved, cache).is_reused
    assert decoded == ["track.flac"]


DAMAGE = {
    "flipped bit": lambda entry, _: entry.write_bytes(flip(entry.read_bytes())),
    "cut": lambda entry, _: entry.write_bytes(entry.read_bytes()[:-9]),
    "empty": lambda entry, _: entry.write_bytes(b""),
    "foreign": lambda entry, _: entry.write_text('{"sha256": "me"}'),
    "another's": lambda entry, other: shutil.copy(other, entry),
}


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_entry_that_is_not_as_written_is_made_again(cache, track, tmp_path, decoded, damage):
    whole = examine(track, cache).result
    entry = entry_of(cache)
    write_track(tmp_path / "other.flac", 2)
    other = cache.entry(examine(tmp_path / "other.flac", cache).result.sha256)
    written = entry.read_bytes()
    DAMAGE[damage](entry, other)
    assert examine(track, cache).result == whole
    assert decoded.count("track.flac") == 2
    assert entry.read_bytes() == written


def test_other_limits_libraries_or_code_are_another_recipe(tmp_path, monkeypatch):
    folders = {ExaminationCache.of(tmp_path, LIMITS).folder}
    folders.add(ExaminationCache.of(tmp_path, DurationLimits(1.0, 61.0)).folder)
    with monkeypatch.context() as patch:
        patch.setattr(examinations.metadata, "version", lambda name: "0")
        folders.add(ExaminationCache.of(tmp_path, LIMITS).folder)
    with monkeypatch.context() as patch:
        patch.setattr(examinations, "hash_file", lambda path: path.name)
        folders.add(ExaminationCache.of(tmp_path, LIMITS).folder)
    assert len(folders) == 4
    assert ExaminationCache.of(tmp_path, LIMITS).folder in folders


def test_a_file_that_changes_while_it_is_read_is_not_kept(cache, track, monkeypatch):
    original = examinations.examine_file

    def meddled(path, limits, sha256):
        os.utime(path, ns=(1, 1))
        return original(path, limits, sha256)

    monkeypatch.setattr(examinations, "examine_file", meddled)
    result = examine(track, cache).result
    assert result.reason == "changed: written to while it was read, run again"
    assert list(cache.folder.rglob("*.json")) == []


def test_a_file_that_cannot_be_opened_is_a_verdict(cache, tmp_path):
    result = examine(tmp_path / "gone.flac", cache).result
    assert result == Rejection("cannot be opened: No such file or directory")


def test_a_cache_that_cannot_be_written_is_one_clear_error(cache, track, tmp_path):
    (tmp_path / "kept").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        examine(track, cache)


def test_of_old_recipes_the_one_used_last_stays(tmp_path, track):
    for number in range(4):
        old = ExaminationCache(tmp_path / "kept" / f"{number}", LIMITS)
        examine(track, old)
        os.utime(old.folder, ns=(number, number))
    ExaminationCache(tmp_path / "kept" / "0", LIMITS).remove_old()
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["0", "3"]


def test_outputs_are_the_same_with_and_without_what_is_kept(tmp_path, monkeypatch, caplog):
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "music").mkdir()
    for seed in range(5):
        write_track(tmp_path / "music" / f"{seed}.wav", seed)
    write_track(tmp_path / "music" / "short.wav", 9, 0.1)
    params = params_for(tmp_path / "music", ingest={"min_validation_s": 0.0})
    outputs = (paths.INGEST_REPORT, paths.INGEST_GROUPS, paths.CATALOGUE)
    first = ingest.run(params), [path.read_bytes() for path in outputs]
    second = ingest.run(params), [path.read_bytes() for path in outputs]
    assert "6 of 6 audio files were known" in caplog.text
    assert second == first
