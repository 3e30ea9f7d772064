"""Laws of normalizing one file: target, ceiling, ends, channels, and memory that does not grow."""

import tracemalloc

import numpy as np
import pyloudnorm
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.normalize import (
    NormalizedFile,
    NormalizeJob,
    NormalizeTarget,
    Unusable,
    normalize_file,
)
from melodac.errors import AudioError
from melodac.files import hash_file
from tests.audio.sounds import RATE_HZ, music
from tests.reference.true_peak import draw_all

TARGET = {
    "rate_hz": RATE_HZ,
    "channels": "mono",
    "target_lufs": -16.0,
    "max_gain_db": 30.0,
    "peak_ceiling_dbtp": -1.0,
    "trim_below_dbfs": -60.0,
    "keep_silence_s": 0.5,
}


def normalize(folder, audio, *, rate_hz=RATE_HZ, subtype="PCM_24", **target):
    """The result and the samples that were written."""
    source = folder / "source.wav"
    soundfile.write(source, audio.T, rate_hz, subtype=subtype)
    job = NormalizeJob(source, folder / "result.flac", hash_file(source)[:16])
    result = normalize_file(job, target=NormalizeTarget(**{**TARGET, **target}), max_duration_s=4e3)
    if isinstance(result, Unusable):
        assert not job.destination.exists()
        return result, None
    written, written_hz = soundfile.read(job.destination, dtype="float32", always_2d=True)
    assert result.sha256 == hash_file(job.destination)
    assert written_hz == RATE_HZ
    assert written.T.shape == (result.num_channels, result.num_samples)
    assert sorted(path.name for path in folder.iterdir()) == ["result.flac", "source.wav"]
    return result, written.T


@given(
    seed=st.integers(0, 1000),
    channels=st.integers(1, 2),
    rate_hz=st.sampled_from([22_050, 44_100, 48_000]),
    level_db=st.floats(-40.0, 0.0),
    policy=st.sampled_from(["mono", "stereo", "keep"]),
    ceiling_dbtp=st.sampled_from([-6.0, -1.0]),
)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_what_the_report_says(
    tmp_path_factory, seed, channels, rate_hz, level_db, policy, ceiling_dbtp
):
    audio = music(seed, 1.5, rate_hz=rate_hz, channels=channels)
    audio *= np.float32(10 ** (level_db / 20))
    result, written = normalize(
        tmp_path_factory.mktemp("one"),
        audio,
        rate_hz=rate_hz,
        channels=policy,
        peak_ceiling_dbtp=ceiling_dbtp,
    )
    assert isinstance(result, NormalizedFile)
    assert np.isfinite(written).all()
    gain = result.gain
    reached = pyloudnorm.Meter(RATE_HZ).integrated_loudness(written.T.astype(np.float64))
    assert gain.loudness_after_lufs == pytest.approx(reached, abs=0.1)
    assert gain.is_gain_capped or gain.is_peak_limited or abs(reached + 16) <= 0.5
    peak_dbtp = 20 * np.log10(draw_all(written, 16))
    assert gain.peak_dbtp == pytest.approx(peak_dbtp, abs=0.3)
    assert peak_dbtp <= ceiling_dbtp + 0.05
    assert gain.gain_db <= 30.0


def test_normalizing_twice_changes_next_to_nothing(tmp_path):
    _, once = normalize(tmp_path, music(0, 3.0))
    again, twice = normalize(tmp_path, once)
    assert abs(again.gain.gain_db) <= 0.1
    assert twice.shape == once.shape
    np.testing.assert_allclose(twice, once, atol=0.01)


def test_silent_ends_are_cut_to_what_is_kept_and_the_start_is_told(tmp_path):
    sound, rate_hz = music(0, 2.0, rate_hz=48_000), 48_000
    silence = np.zeros((1, 3 * rate_hz), np.float32)
    result, written = normalize(
        tmp_path, np.concatenate([silence, sound, silence], axis=1), rate_hz=rate_hz
    )
    assert result.start_sample == pytest.approx(2.5 * RATE_HZ, abs=100)
    assert result.num_samples == pytest.approx(3.0 * RATE_HZ, abs=200)
    assert np.abs(written[0, : RATE_HZ // 3]).max() < 1e-3
    assert np.abs(written[0, RATE_HZ // 2 : RATE_HZ]).max() > 0.1


def test_short_silence_and_silence_inside_stay(tmp_path):
    sound, gap = music(0, 1.0), np.zeros((1, 2 * RATE_HZ), np.float32)
    track = np.concatenate([gap[:, :1000], sound, gap, sound, gap[:, :1000]], axis=1)
    result, _ = normalize(tmp_path, track)
    assert (result.start_sample, result.num_samples) == (0, track.shape[1])


def test_an_offset_does_not_keep_silence_from_being_cut(tmp_path):
    sound, silence = music(0, 2.0), np.zeros((1, 3 * RATE_HZ), np.float32)
    track = 0.3 * np.concatenate([silence, sound, silence], axis=1) + 0.02
    result, written = normalize(tmp_path, track.astype(np.float32))
    assert result.num_samples == pytest.approx(3.0 * RATE_HZ, abs=RATE_HZ // 3)
    assert abs(written.mean()) < 1e-3


def test_mono_is_doubled_for_stereo(tmp_path):
    result, written = normalize(tmp_path, music(0, 1.0), channels="stereo")
    assert result.num_channels == 2
    np.testing.assert_array_equal(written[0], written[1])


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (np.zeros((1, 50_000)), "silent: no sample reaches -60 dBFS"),
        (np.full((1, 50_000), 0.5), "silent: no sample reaches -60 dBFS"),
        (np.outer([0.5, -0.5], np.sin(np.arange(50_000) / 20)), "silent: no sample reaches"),
        (1e30 * music(0, 1.0), "damaged: holds samples beyond"),
    ],
    ids=["silence", "a constant", "cancels in mono", "absurd"],
)
def test_what_cannot_be_used_is_told_and_not_written(tmp_path, audio, reason):
    result, _ = normalize(tmp_path, audio.astype(np.float32), subtype="FLOAT")
    assert isinstance(result, Unusable)
    assert result.reason.startswith(reason)


def test_too_many_channels_for_stereo_are_told(tmp_path):
    result, _ = normalize(tmp_path, np.repeat(music(0, 1.0), 12, axis=0), channels="stereo")
    assert isinstance(result, Unusable)
    assert result.reason.startswith("channels: 12")


def test_another_source_than_announced_is_refused_and_leaves_nothing(tmp_path):
    soundfile.write(tmp_path / "source.wav", music(0, 1.0).T, RATE_HZ)
    job = NormalizeJob(tmp_path / "source.wav", tmp_path / "result.flac", "0" * 16)
    with pytest.raises(AudioError, match=r"source\.wav: changed since ingest"):
        normalize_file(job, target=NormalizeTarget(**TARGET), max_duration_s=10.0)
    assert [path.name for path in tmp_path.iterdir()] == ["source.wav"]


@pytest.mark.slow
@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_memory_does_not_grow_with_the_track(tmp_path, rate_hz):
    peaks_mb = []
    for minutes in (1, 10):
        source = tmp_path / f"{minutes}.flac"
        second = music(0, 1.0, rate_hz=rate_hz, channels=2)
        with soundfile.SoundFile(source, "w", rate_hz, 2, "PCM_16") as file:
            for _ in range(60 * minutes):
                file.write(second.T)
        job = NormalizeJob(source, tmp_path / "result.flac", hash_file(source)[:16])
        target = NormalizeTarget(**{**TARGET, "channels": "stereo"})
        tracemalloc.start()
        normalize_file(job, target=target, max_duration_s=4e3)
        peaks_mb.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    assert peaks_mb[1] < 60
    assert peaks_mb[1] < 1.1 * peaks_mb[0]
