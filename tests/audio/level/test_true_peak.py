"""Laws of the true peak: what skipping saves changes nothing, and the standard's tone is heard."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level import loudness as true_peak
from melodac.audio.level.loudness import TruePeakMeter
from tests.audio.sounds import cut, music
from tests.reference.true_peak import draw_all


def measure(audio, lengths=(1 << 16,)):
    meter = TruePeakMeter(audio.shape[0])
    for block in cut(audio, lengths):
        meter.add(block)
    return meter.peak()


def sound(kind, seed, num_samples, channels=1):
    """Spectra from a slow wave to clipped noise; some bend everywhere, some nowhere."""
    rng = np.random.default_rng(seed)
    if kind == "music":
        return music(seed, num_samples / 44_100 + 1e-4, channels=channels)
    noise = rng.standard_normal((channels, num_samples)).astype(np.float32)
    if kind == "clipped":
        return np.clip(2 * noise, -1, 1)
    if kind == "slow":
        return np.cumsum(noise, axis=1)
    if kind == "spikes":
        return noise * (rng.uniform(size=noise.shape) > 0.99)
    return noise


KINDS = st.sampled_from(["music", "clipped", "slow", "spikes", "noise"])


@given(kind=KINDS, seed=st.integers(0, 1000), num_samples=st.integers(1, 6000))
@settings(max_examples=60, deadline=None)
def test_drawing_a_few_gaps_is_as_good_as_drawing_all(kind, seed, num_samples):
    audio = sound(kind, seed, num_samples)
    expected = draw_all(audio, true_peak.OVERSAMPLING)
    # the reference passes the samples themselves through its filter, we take them as they are
    assert measure(audio) == pytest.approx(expected, rel=1.5e-3)


@given(
    kind=KINDS,
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_the_peak_does_not_depend_on_how_the_track_was_cut(kind, seed, lengths):
    audio = sound(kind, seed, 5000, channels=2)
    assert measure(audio, lengths) == measure(audio)


@pytest.mark.parametrize("kind", ["music", "clipped", "slow", "spikes", "noise"])
def test_agrees_with_a_waveform_drawn_twice_as_finely(kind):
    for seed in range(5):
        audio = sound(kind, seed, 20_000)
        apart_db = 20 * np.log10(measure(audio) / draw_all(audio, 16))
        assert abs(apart_db) <= 0.3


def test_real_music_agrees_with_a_waveform_drawn_twice_as_finely(real_music):
    for path in sorted((real_music / "tracks").iterdir()):
        audio = soundfile.read(path, frames=10 * 44_100, dtype="float32", always_2d=True)[0].T
        apart_db = 20 * np.log10(measure(audio) / draw_all(audio, 16))
        assert abs(apart_db) <= 0.01


def test_a_tone_whose_crests_fall_between_the_samples_is_heard_in_full():
    # a quarter of the sample rate, 45 degrees: samples are 3 dB below the crests
    tone = np.sin(np.pi / 2 * np.arange(2000) + np.pi / 4).astype(np.float32)[None]
    assert np.abs(tone).max() == pytest.approx(0.7071, abs=1e-3)
    inner = tone * np.hanning(2000).astype(np.float32)  # no click at the ends
    assert measure(inner) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("position", [0, 1, 30, 31, 32, 33, 63, 64, 500, 998, 999])
def test_a_click_counts_wherever_it_is(position):
    audio = np.zeros((2, 1000), np.float32)
    audio[1, position] = -0.5
    assert measure(audio) == 0.5


def test_silence_has_no_peak():
    assert measure(np.zeros((1, 100), np.float32)) == 0.0
    assert TruePeakMeter(2).peak() == 0.0


def test_the_bend_a_skipped_gap_may_hide_is_bounded_by_the_filter():
    kernel = true_peak._interpolation_filter()[: true_peak.TAPS].reshape(true_peak.TAPS, -1, 7)
    for step, weights in enumerate(kernel[:, 0].T.astype(np.float64), start=1):
        beside = np.zeros(true_peak.TAPS)
        beside[true_peak.REACH - 1 : true_peak.REACH + 1] = 1 - step / 8, step / 8
        bends = np.cumsum(np.cumsum(weights / weights.sum() - beside))[:-1]
        assert np.abs(bends[:-1]).sum() <= true_peak.BEND_GAIN
        assert abs(weights.sum() - 1) < 1e-3
        assert abs(bends[-1]) < 0.003
