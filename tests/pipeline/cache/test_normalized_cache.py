"""Laws of the normalized tracks that are kept: never made twice, never trusted, never in the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melodac.audio.level.normalize import NormalizeTarget
from pipeline import paths
from pipeline.cache import normalized_audio as normalized_cache
from pipeline.cache.normalized_audio import hash_recipe, open_cache
from pipeline.stages import normalize
from tests.pipeline.catalogued import catalogue
from tests.pipeline.music_folder import ROOT, params_for, write_track

TARGET = NormalizeTarget(44_100, "mono", -16.0, 30.0, -1.0, -60.0, 0.5)
TRACKS = 4


@pytest.fixture
def music(tmp_path, monkeypatch):
    """A folder of tracks with its catalogue."""
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "music"
    for seed in range(TRACKS):
        write_track(folder / f"{seed}.wav", seed, 0.5)
    catalogue(folder)
    return folder


def run(music, **sections):
    counts = normalize.run(params_for(music, **sections)).counts
    return counts["normalized"], counts["reused"]


def results():
    files = [*paths.NORMALIZED_AUDIO.iterdir(), paths.NORMALIZED_TABLE]
    return {path.name: path.read_bytes() for path in files}


def cached(pattern):
    return sorted(paths.scratch("normalize").glob(f"*/{pattern}"))


def test_one_track_more_is_one_track_normalized(music):
    assert run(music) == (TRACKS, 0)
    write_track(music / "new.wav", 99, 0.5)
    catalogue(music)
    assert run(music) == (1, TRACKS)
    with_cache = results()
    shutil.rmtree(paths.scratch("normalize"))
    assert run(music) == (TRACKS + 1, 0)
    assert results() == with_cache


def test_a_renamed_track_is_known_by_its_content(music):
    run(music)
    before = results()
    (music / "0.wav").rename(music / "zzz.wav")
    catalogue(music)
    assert run(music) == (0, TRACKS)
    assert results() == before


@pytest.mark.parametrize(
    "change",
    [{"target_lufs": -20.0}, {"channels": "stereo"}, {"peak_ceiling_dbtp": -12.0}],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_uses_nothing_of_the_first(music, change):
    run(music)
    before = results()
    assert run(music, normalize=change) == (TRACKS, 0)
    assert results() != before
    assert run(music) == (0, TRACKS)
    assert results() == before


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, empty, Path.unlink], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("pattern", ["*.flac", "*.json"])
def test_a_damaged_entry_is_made_again_and_told(music, caplog, pattern, damage):
    run(music)
    before = results()
    damage(cached(pattern)[1])
    assert run(music) == (1, TRACKS - 1)
    assert results() == before
    is_missing = damage is Path.unlink and pattern == "*.json"
    assert ("what was kept of it is damaged" in caplog.text) != is_missing
    assert run(music) == (0, TRACKS)


def test_a_result_edited_in_place_does_not_reach_the_next_run(music):
    run(music)
    before = results()
    flip(next(paths.NORMALIZED_AUDIO.iterdir()))  # the same file as in the cache
    assert run(music) == (1, TRACKS - 1)
    assert results() == before


def test_files_are_shared_and_may_be_read_only(music):
    run(music)
    for path in paths.NORMALIZED_AUDIO.iterdir():
        assert path.stat().st_nlink == 2
        path.chmod(0o444)  # as DVC does with what it has taken over
    before = results()
    assert run(music) == (0, TRACKS)
    assert results() == before
    flip(cached("*.flac")[0])
    cached("*.flac")[0].chmod(0o444)
    assert run(music) == (1, TRACKS - 1)
    assert results() == before


def test_a_disk_without_hard_links_gets_copies(music, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    run(music)
    before = results()
    shutil.rmtree(paths.scratch("normalize"))
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(
        normalize, "map_in_workers", lambda function, jobs, workers: map(function, jobs)
    )
    assert run(music) == (TRACKS, 0)
    assert run(music) == (0, TRACKS)
    assert results() == before
    assert {path.stat().st_nlink for path in paths.NORMALIZED_AUDIO.iterdir()} == {1}


def test_what_is_silent_is_remembered_too(music):
    write_track(music / "silent.wav", 0, 0.5, level=0.0)
    catalogue(music)
    assert run(music) == (TRACKS + 1, 0)
    assert run(music) == (0, TRACKS + 1)


def test_the_recipe_names_every_setting_and_library(monkeypatch):
    hashes = {hash_recipe(TARGET)}
    for change in (
        {"rate_hz": 48_000}, {"channels": "keep"}, {"target_lufs": -17.0}, {"max_gain_db": 29.0},
        {"peak_ceiling_dbtp": -2.0}, {"trim_below_dbfs": -61.0}, {"keep_silence_s": 0.6},
    ):  # fmt: skip
        hashes.add(hash_recipe(NormalizeTarget(**{**vars(TARGET), **change})))
    monkeypatch.setattr(normalized_cache, "RECIPE_VERSION", -1)
    hashes.add(hash_recipe(TARGET))
    monkeypatch.setattr(normalized_cache.metadata, "version", lambda _: "0")
    hashes.add(hash_recipe(TARGET))
    assert len(hashes) == 1 + len(vars(TARGET)) + 2


def test_the_last_two_recipes_stay_and_one_in_use_always(tmp_path):
    def use(number):
        with open_cache(tmp_path, NormalizeTarget(**{**vars(TARGET), "target_lufs": -number})):
            time.sleep(0.01)  # two uses, two times

    with open_cache(tmp_path, TARGET) as in_use:
        for number in (20.0, 21.0, 22.0, 23.0):
            use(number)
        left = {folder.name for folder in tmp_path.iterdir()}
        kept = {
            hash_recipe(NormalizeTarget(**{**vars(TARGET), "target_lufs": -n}))
            for n in (22.0, 23.0)
        }
        assert left == {in_use.name} | kept
    assert in_use.exists()
    use(24.0)
    assert not in_use.exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(music, tmp_path):
    for seed in range(10, 40):
        write_track(music / f"{seed}.wav", seed, 2.0)
    catalogue(music)
    assert run(music) == (TRACKS + 30, 0)
    expected = results()
    for kill_at in (1, 9, 23):
        shutil.rmtree(paths.scratch("normalize"))
        shutil.rmtree(paths.NORMALIZED)
        params = tmp_path / "params.json"
        params.write_text(params_for(music).model_dump_json())
        code = (
            "from pathlib import Path\n"
            "from pipeline.params import Params\n"
            "from pipeline.stages import normalize\n"
            f"normalize.run(Params.model_validate_json(Path({str(params)!r}).read_text()))\n"
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, start_new_session=True
        )
        while len(cached("*.json")) < kill_at:
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not paths.NORMALIZED_TABLE.exists()
        made, reused = run(music)
        assert reused >= kill_at
        assert made >= 1
        assert results() == expected
        assert sorted(path.name for path in paths.NORMALIZED.iterdir()) == [
            "audio",
            "normalized.parquet",
        ]
