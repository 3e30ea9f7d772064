"""What codec training is given: a catalogue's split is kept, weights are what was asked for."""

import numpy as np
import pytest
import soundfile

from melodac.codec_training.clips import Clip
from melodac.errors import ConfigError
from pipeline import paths
from pipeline.commands import codec_sources
from pipeline.commands.codec_sources import held_out_clips, is_catalogue, open_source
from pipeline.records import NormalizedRecord, TrackRecord, write_catalogue, write_normalized

RATE_HZ = 44_100
SPLITS = {"a": "train", "b": "validation", "c": "test"}


def track(name: str) -> TrackRecord:
    return TrackRecord(
        id=name * 16,
        path=f"{name}.wav",
        group=name,
        split=SPLITS[name],
        duration_s=1.0,
        sample_rate_hz=RATE_HZ,
        num_channels=1,
        decoder="libsndfile",
        audio_sha256="",
        loudness_lufs=-20.0,
        peak_dbfs=-3.0,
        tags={},
        tag_sources={},
        licence="",
    )


def normalized(name: str, *, is_gain_capped: bool) -> NormalizedRecord:
    return NormalizedRecord(
        id=name * 16,
        sha256="",
        num_samples=RATE_HZ,
        num_channels=1,
        start_sample=0,
        gain_db=0.0,
        loudness_before_lufs=-20.0,
        loudness_after_lufs=-19.0,
        peak_dbtp=-1.0,
        is_gain_capped=is_gain_capped,
    )


@pytest.fixture
def catalogue(tmp_path):
    """Three normalised tracks at -19 LUFS, one in each split; the gain of `c` was capped."""
    data = tmp_path / "data"
    write_catalogue(data / paths.CATALOGUE.relative_to(paths.DATA), [track(n) for n in "abc"])
    audio = data / paths.NORMALIZED_AUDIO.relative_to(paths.DATA)
    audio.mkdir(parents=True)
    table = [normalized(name, is_gain_capped=name == "c") for name in "abc"]
    write_normalized(data / paths.NORMALIZED_TABLE.relative_to(paths.DATA), table)
    for row in table:
        soundfile.write(audio / f"{row.id}.flac", np.full(RATE_HZ, 0.25), RATE_HZ)
    return data


def test_only_the_training_split_of_a_catalogue_trains(catalogue):
    assert is_catalogue(catalogue)
    files = open_source(catalogue, RATE_HZ)
    assert {file.name: file.held_out for file in files} == {
        "a.wav": False,
        "b.wav": True,
        "c.wav": True,
    }


def test_crops_of_a_catalogue_are_at_the_loudness_the_codec_is_trained_at(catalogue):
    levels = {file.name: file.read(0, 10)[0, 0] for file in open_source(catalogue, RATE_HZ)}
    assert levels["a.wav"] == pytest.approx(0.25 * 10 ** (3 / 20), rel=1e-3)  # -19 to -16 LUFS
    assert levels["c.wav"] == pytest.approx(0.25, rel=1e-3)  # could not be lifted without clipping


def test_a_catalogue_of_another_rate_is_refused(catalogue):
    with pytest.raises(ConfigError, match="44100 Hz"):
        open_source(catalogue, 16_000)


def test_a_table_that_does_not_fit_the_catalogue_is_refused(catalogue):
    write_catalogue(catalogue / paths.CATALOGUE.relative_to(paths.DATA), [track("a")])
    with pytest.raises(ConfigError, match="run normalize again"):
        open_source(catalogue, RATE_HZ)


def test_a_folder_of_music_is_no_catalogue(music):
    assert not is_catalogue(music)
    assert any(clip.held_out for clip in open_source(music, RATE_HZ))


def test_long_recordings_are_measured_in_their_middle():
    samples = np.arange(50 * 100, dtype=np.float32)
    (clip,) = held_out_clips([Clip("long", samples, held_out=True)], 100)
    np.testing.assert_array_equal(clip.samples, samples[1000:4000])


def test_what_is_measured_is_spread_over_many_recordings(monkeypatch):
    monkeypatch.setattr(codec_sources, "MOST_MEASURED", 4)
    clips = [Clip(str(i), np.zeros(5, np.float32), held_out=i % 2 == 0) for i in range(20)]
    assert [clip.name for clip in held_out_clips(clips, 100)] == ["0", "6", "12", "18"]
