"""Laws of the loudness meter."""

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.loudness import SILENCE_LUFS, LoudnessMeter, measure_loudness
from tests.audio.sounds import RATE_HZ, music


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000])
def test_meter_agrees_with_pyloudnorm(rate_hz, channels):
    for seed, duration_s in enumerate((0.4, 0.47, 1.0, 3.33)):
        audio = music(seed, duration_s, rate_hz=rate_hz, channels=channels)
        expected = pyloudnorm.Meter(rate_hz).integrated_loudness(audio.T.astype(np.float64))
        # theirs cuts a block one sample short where 0.1 s is no whole number of samples
        assert measure_loudness(audio, rate_hz) == pytest.approx(expected, abs=0.02)


def test_meter_hears_the_standard_reference_tone():
    # BS.1770: 0 dBFS at 997 Hz on one channel reads -3.01 LUFS
    tone = np.sin(2 * np.pi * 997 * np.arange(5 * 48_000) / 48_000).astype(np.float32)[None]
    assert measure_loudness(tone, 48_000) == pytest.approx(-3.01, abs=0.1)


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=6), st.integers(4000, 50_000))
@settings(max_examples=30, deadline=None)
def test_meter_does_not_see_how_the_track_was_cut(lengths, rate_hz):
    audio = music(0, sum(lengths) / RATE_HZ + 0.001)
    meter = LoudnessMeter(rate_hz, 1)
    for block in np.split(audio, np.cumsum(lengths), axis=1):
        meter.add(block)
    assert meter.loudness_lufs() == pytest.approx(measure_loudness(audio, rate_hz), abs=1e-9)


def test_short_sound_is_as_loud_as_its_repetition():
    click = music(3, 0.05)
    assert measure_loudness(click, RATE_HZ) == pytest.approx(
        measure_loudness(np.tile(click, 8), RATE_HZ), abs=0.01
    )


@pytest.mark.parametrize("num_samples", [0, 1, 100, RATE_HZ])
def test_silence_is_minus_infinity(num_samples):
    assert measure_loudness(np.zeros((1, num_samples), np.float32), RATE_HZ) == SILENCE_LUFS


@given(seed=st.integers(0, 1000), duration_s=st.floats(0.05, 3.0), gain_db=st.floats(-60.0, 60.0))
@settings(max_examples=30, deadline=None)
def test_loudness_after_a_gain_is_that_of_the_amplified_track(seed, duration_s, gain_db):
    audio = music(seed, duration_s)
    audio[:, audio.shape[1] // 2 :] *= np.float32(1e-3)  # gates decide differently at each level
    amplified = audio * np.float32(10 ** (gain_db / 20))
    expected = measure_loudness(amplified, RATE_HZ)
    assert measure_loudness(audio, RATE_HZ, gain_db) == pytest.approx(expected, abs=1e-5)
