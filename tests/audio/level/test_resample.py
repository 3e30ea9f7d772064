"""Laws of changing the sample rate."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.convert import Resampler, resample
from melodac.errors import AudioError
from tests.audio.sounds import cut

RATES_HZ = st.sampled_from([8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])


@given(
    num_samples=st.integers(1, 50_000), channels=st.integers(1, 3), from_hz=RATES_HZ, to_hz=RATES_HZ
)
@settings(max_examples=60, deadline=None)
def test_length_is_the_rounded_ratio_within_one(num_samples, channels, from_hz, to_hz):
    audio = np.random.default_rng(0).uniform(-1, 1, (channels, num_samples)).astype(np.float32)
    result = resample(audio, from_hz, to_hz)
    assert result.shape[0] == channels
    assert abs(result.shape[1] - round(num_samples * to_hz / from_hz)) <= 1
    assert np.isfinite(result).all()


@given(level=st.floats(-1.0, 1.0, width=32), from_hz=RATES_HZ, to_hz=RATES_HZ)
@settings(max_examples=30, deadline=None)
def test_a_constant_stays_that_constant(level, from_hz, to_hz):
    result = resample(np.full((1, from_hz), level, np.float32), from_hz, to_hz)
    middle = result[0, to_hz // 4 : -to_hz // 4]
    np.testing.assert_allclose(middle, level, atol=1e-4)


def test_a_tone_keeps_its_pitch_and_level():
    time_s = np.arange(48_000) / 48_000
    result = resample(np.sin(2 * np.pi * 1000 * time_s).astype(np.float32)[None], 48_000, 44_100)
    spectrum = np.abs(np.fft.rfft(result[0] * np.hanning(len(result[0]))))
    assert np.argmax(spectrum) == pytest.approx(1000, abs=1)
    assert np.abs(result[0, 4000:-4000]).max() == pytest.approx(1.0, abs=1e-3)


def test_same_rate_is_the_same_samples():
    audio = np.random.default_rng(1).uniform(-1, 1, (2, 100)).astype(np.float32)
    np.testing.assert_array_equal(resample(audio, 44_100, 44_100), audio)


def test_rates_must_be_positive():
    with pytest.raises(AudioError, match="got 0 and 44100"):
        resample(np.zeros((1, 10), np.float32), 0, 44_100)


@given(
    num_samples=st.integers(1, 30_000),
    channels=st.integers(1, 2),
    lengths=st.lists(st.integers(500, 20_000), min_size=1, max_size=4),
    from_hz=RATES_HZ,
)
@settings(max_examples=40, deadline=None)
def test_the_samples_do_not_depend_on_how_the_track_was_cut(
    num_samples, channels, lengths, from_hz
):
    audio = np.random.default_rng(0).uniform(-1, 1, (channels, num_samples)).astype(np.float32)
    resampler = Resampler(from_hz, 44_100, channels)
    blocks = [resampler.add(block) for block in cut(audio, lengths)]
    result = np.concatenate([*blocks, resampler.finish()], axis=1)
    np.testing.assert_array_equal(result, resample(audio, from_hz, 44_100))
    whole = soxr.resample(audio.T, from_hz, 44_100, quality="VHQ").T
    np.testing.assert_array_equal(result, whole)


def test_a_result_that_is_not_finite_is_refused():
    with pytest.raises(AudioError, match="48000 Hz to 44100 Hz gave NaN or infinity"):
        resample(np.full((1, 5000), np.nan, np.float32), 48_000, 44_100)
