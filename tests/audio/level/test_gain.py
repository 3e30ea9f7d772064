"""Laws of the gain that brings a track to a target."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from melodac.audio.level.loudness import LoudnessMeter, TruePeakMeter, choose_gain, measure_loudness
from melodac.errors import AudioError
from tests.audio.sounds import RATE_HZ, music

REACHABLE = {"target_lufs": -23.0, "max_gain_db": 200.0, "peak_ceiling_dbtp": 0.0}


def measure_peak(audio):
    meter = TruePeakMeter(audio.shape[0])
    meter.add(audio)
    return meter.peak()


def normalize(audio, **target):
    meter = LoudnessMeter(RATE_HZ, audio.shape[0])
    meter.add(audio)
    gain = choose_gain(meter, measure_peak(audio), **target)
    return audio * gain.factor, gain


@given(
    seed=st.integers(0, 1000),
    duration_s=st.floats(0.01, 4.0),
    level_db=st.floats(-90.0, 20.0),
    target_lufs=st.floats(-40.0, -6.0),
    max_gain_db=st.floats(0.0, 60.0),
    peak_ceiling_dbtp=st.floats(-12.0, 0.0),
)
@settings(max_examples=60, deadline=None)
def test_target_is_met_or_what_kept_it_away_is_told(
    seed, duration_s, level_db, target_lufs, max_gain_db, peak_ceiling_dbtp
):
    audio = music(seed, duration_s) * np.float32(10 ** (level_db / 20))
    try:
        result, gain = normalize(
            audio,
            target_lufs=target_lufs,
            max_gain_db=max_gain_db,
            peak_ceiling_dbtp=peak_ceiling_dbtp,
        )
    except AudioError as error:
        assert "silent" in str(error)  # noqa: PT017  an allowed ending, not the expected one
        assert measure_loudness(audio, RATE_HZ) + max_gain_db < -60
        return
    assert np.isfinite(result).all()
    assert result.shape == audio.shape
    peak_dbtp = 20 * np.log10(measure_peak(result))
    assert peak_dbtp <= peak_ceiling_dbtp + 1e-3
    assert gain.peak_dbtp == pytest.approx(peak_dbtp, abs=1e-3)
    assert gain.gain_db <= max_gain_db + 1e-9
    reached = measure_loudness(result, RATE_HZ)
    assert gain.loudness_after_lufs == pytest.approx(reached, abs=1e-5)
    is_excused = gain.is_gain_capped or gain.is_peak_limited
    assert reached - target_lufs <= 0.5
    assert is_excused or abs(reached - target_lufs) <= 0.5


@given(seed=st.integers(0, 1000), level_db=st.floats(-100.0, 20.0))
@settings(max_examples=30, deadline=None)
def test_result_does_not_depend_on_the_level_of_the_recording(seed, level_db):
    audio = music(seed, 1.0)
    expected, _ = normalize(audio, **REACHABLE)
    scaled, _ = normalize(audio * np.float32(10 ** (level_db / 20)), **REACHABLE)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)


@given(seed=st.integers(0, 1000), duration_s=st.floats(0.05, 3.0))
@settings(max_examples=30, deadline=None)
def test_normalizing_twice_changes_nothing(seed, duration_s):
    once, gain = normalize(music(seed, duration_s), **REACHABLE)
    assume(not gain.is_gain_capped)
    _, again = normalize(once, **REACHABLE)
    assert abs(again.gain_db) <= 0.1


def test_quiet_passages_are_not_cut_by_the_level_of_the_recording():
    loud, quiet = music(1, 2.0), music(2, 6.0) * np.float32(0.02)
    track = np.concatenate([loud, quiet], axis=1)
    for level in (1.0, 1e-3):
        result, _ = normalize(track * np.float32(level), **REACHABLE)
        assert measure_loudness(result, RATE_HZ) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("peak", [np.nan, np.inf])
def test_a_peak_that_is_not_finite_is_refused(peak):
    with pytest.raises(AudioError, match="non-finite"):
        choose_gain(LoudnessMeter(RATE_HZ, 1), peak, **REACHABLE)


def test_silence_is_refused():
    with pytest.raises(AudioError, match="silent"):
        normalize(np.zeros((1, 50_000), np.float32), **REACHABLE)


def test_reason_for_missing_the_target_is_the_nearer_limit():
    spike = np.zeros((1, RATE_HZ), np.float32)
    spike[0, ::5000] = 1.0
    _, limited = normalize(spike, target_lufs=-6.0, max_gain_db=60.0, peak_ceiling_dbtp=-1.0)
    assert (limited.is_peak_limited, limited.is_gain_capped) == (True, False)
    faint = music(0, 2.0) * np.float32(1e-3)
    _, capped = normalize(faint, target_lufs=-16.0, max_gain_db=12.0, peak_ceiling_dbtp=-1.0)
    assert (capped.is_peak_limited, capped.is_gain_capped) == (False, True)
    assert capped.gain_db == pytest.approx(12.0)
