"""Laws of the normalize stage: one rate, one channel, one loudness, exact lengths, all or nothing."""

import shutil

import numpy as np
import pytest
import soundfile

from melodac.audio.files.read import read_audio
from melodac.audio.level.loudness import measure_loudness
from melodac.errors import AudioError, OutputError
from melodac.files import hash_file
from pipeline import paths
from pipeline.records import read_catalogue, read_normalized
from pipeline.stages import normalize
from tests.audio.sounds import write_wav
from tests.pipeline.catalogued import catalogue
from tests.pipeline.music_folder import fingerprint_folder, params_for, tone, write_track

RATES_HZ = (22_050, 44_100, 48_000)


@pytest.fixture
def music(tmp_path, monkeypatch):
    """A folder of tracks, ingested."""
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "music"
    for seed, rate_hz in enumerate(RATES_HZ):
        write_track(folder / f"{seed}.wav", seed, 1.0 + 0.1234 * seed, rate_hz=rate_hz)
    write_track(folder / "stereo.flac", 7, channels=2)
    write_track(folder / "faint.flac", 8, level=0.003)
    catalogue(folder)
    return folder


def test_every_track_is_mono_at_the_codec_rate_and_the_target(music):
    params = params_for(music)
    outcome = normalize.run(params)
    tracks = {track.id: track for track in read_catalogue(paths.CATALOGUE)}
    rows = read_normalized(paths.NORMALIZED_TABLE)
    assert {row.id for row in rows} == set(tracks)
    assert (outcome.counts["tracks out"], outcome.counts["below target"]) == (5, 1)
    for row in rows:
        audio, rate_hz = read_audio(paths.NORMALIZED_AUDIO / f"{row.id}.flac", 10.0)
        assert (rate_hz, audio.shape) == (44_100, (1, row.num_samples))
        assert (row.num_channels, row.start_sample) == (1, 0)
        assert row.sha256 == hash_file(paths.NORMALIZED_AUDIO / f"{row.id}.flac")
        track = tracks[row.id]
        assert abs(row.num_samples - round(track.duration_s * 44_100)) <= 1
        reached = measure_loudness(audio, rate_hz)
        assert row.loudness_after_lufs == pytest.approx(reached, abs=0.01)
        assert row.peak_dbtp <= params.normalize.peak_ceiling_dbtp + 1e-6
        is_on_target = abs(reached - params.normalize.target_lufs) <= 0.5
        assert is_on_target or row.is_gain_capped
        assert row.is_gain_capped == (track.path == "faint.flac")


def test_files_are_24_bit_flac(music):
    normalize.run(params_for(music))
    written = {(soundfile.info(f).format, soundfile.info(f).subtype) for f in files()}
    assert written == {("FLAC", "PCM_24")}


def test_bytes_are_the_same_for_any_worker_count(music):
    written = []
    for workers in (1, 3):
        shutil.rmtree(paths.scratch("normalize"), ignore_errors=True)
        normalize.run(params_for(music, workers=workers))
        written.append({f.name: f.read_bytes() for f in [*files(), paths.NORMALIZED_TABLE]})
    assert written[0] == written[1]


def test_silent_ends_are_cut_and_the_table_says_where_the_track_begins(music):
    silence, sound = np.zeros((1, 22_050), np.float32), tone(30)
    track = np.concatenate([silence, silence, sound, silence, silence], axis=1)
    write_wav(music / "0.wav", track, 22_050)
    catalogue(music)
    normalize.run(params_for(music))
    row = next(r for r in read_normalized(paths.NORMALIZED_TABLE) if r.start_sample)
    assert row.start_sample == pytest.approx(1.5 * 44_100, abs=100)
    assert row.num_samples == pytest.approx(2.2 * 44_100, abs=1500)


def test_stereo_gives_every_track_two_channels(music):
    normalize.run(params_for(music, normalize={"channels": "stereo"}))
    assert {row.num_channels for row in read_normalized(paths.NORMALIZED_TABLE)} == {2}
    assert {soundfile.info(f).channels for f in files()} == {2}


def test_keeping_channels_is_refused_for_a_mixture_before_any_work(music):
    params = params_for(music, normalize={"channels": "keep"})
    with pytest.raises(AudioError, match=r"mixes 4 mono and 1 stereo tracks.*set it to mono or"):
        normalize.run(params)
    assert not paths.NORMALIZED.exists()
    (music / "stereo.flac").unlink()
    catalogue(music)
    normalize.run(params)
    assert {row.num_channels for row in read_normalized(paths.NORMALIZED_TABLE)} == {1}


def test_a_catalogue_of_nothing_but_silence_is_an_error_that_counts(music):
    for path in music.iterdir():
        path.unlink()
    soundfile.write(music / "a.wav", np.zeros(50_000), 22_050)
    catalogue(music)
    with pytest.raises(AudioError, match="no track is left of 1: 1 silent"):
        normalize.run(params_for(music))


def test_the_music_itself_is_not_touched(music):
    before = fingerprint_folder(music)
    normalize.run(params_for(music))
    assert fingerprint_folder(music) == before


def test_a_track_that_cancels_in_mono_is_left_out_and_counted(music, caplog):
    left = tone(20)
    soundfile.write(music / "wide.wav", np.concatenate([left, -left]).T, 22_050, subtype="PCM_24")
    catalogue(music)
    outcome = normalize.run(params_for(music))
    assert outcome.counts["tracks in"] - outcome.counts["tracks out"] == 1
    assert outcome.skipped == {"silent": 1}
    assert "wide.wav: left out: silent" in caplog.text


def test_a_file_changed_since_ingest_is_refused_by_name(music):
    write_track(music / "0.wav", 99, 1.0)
    with pytest.raises(AudioError, match=r"0\.wav: changed since ingest, run the ingest stage"):
        normalize.run(params_for(music))
    assert not paths.NORMALIZED_AUDIO.exists()
    assert not paths.NORMALIZED_TABLE.exists()


def test_a_file_gone_since_ingest_is_named(music):
    (music / "0.wav").unlink()
    with pytest.raises(AudioError, match=r"0\.wav: cannot be opened: No such file"):
        normalize.run(params_for(music))


def test_a_crash_names_the_track(music, monkeypatch):
    crash = normalize.WorkerCrash()
    monkeypatch.setattr(normalize, "map_in_workers", lambda _, jobs, workers: (crash for _ in jobs))
    with pytest.raises(AudioError, match=r"0\.wav: normalizing it crashed its worker"):
        normalize.run(params_for(music))


def test_an_unwritable_output_is_one_clear_line(music):
    paths.NORMALIZED.touch()  # a file where the folder should be
    with pytest.raises(OutputError, match=r"data/normalize/\.audio\.partial: cannot be written"):
        normalize.run(params_for(music))


def test_a_second_run_leaves_nothing_of_the_first(music):
    normalize.run(params_for(music))
    (music / "0.wav").unlink()
    catalogue(music)
    normalize.run(params_for(music))
    assert len(list(files())) == 4
    assert sorted(p.name for p in paths.NORMALIZED.iterdir()) == ["audio", "normalized.parquet"]


def files():
    return sorted(paths.NORMALIZED_AUDIO.iterdir())
