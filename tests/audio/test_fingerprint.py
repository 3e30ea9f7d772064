"""Laws of the fingerprint: what does not change a recording for a listener changes few of its bits."""

import io
import math

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.convert import resample
from melodac.audio.near_duplicates import (
    HOP_SAMPLES,
    QUIET_WORD,
    RATE_HZ,
    FingerprintMeter,
    measure_similarity,
)

SOURCE_HZ = 44_100


def melody(seed, duration_s=6.0, *, rate_hz=SOURCE_HZ):
    """Notes with overtones that begin and die away, two channels that differ."""
    rng = np.random.default_rng(seed)
    sound = np.zeros((2, int(duration_s * rate_hz)))
    for start_s in np.arange(0.0, duration_s - 0.3, 0.17):
        start = int(start_s * rate_hz)
        time_s = np.arange(min(rate_hz, sound.shape[1] - start)) / rate_hz
        pitch_hz = 110.0 * 2.0 ** (rng.integers(0, 36) / 12)
        note = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 6))
        pan = rng.uniform(0.2, 0.8, (2, 1))
        sound[:, start : start + len(time_s)] += pan * note * np.exp(-4.0 * time_s)
    sound += 1e-3 * rng.standard_normal(sound.shape)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def fingerprint(audio, rate_hz=SOURCE_HZ, block=1 << 18):
    meter = FingerprintMeter(rate_hz, audio.shape[0])
    for start in range(0, audio.shape[1], block):
        meter.add(audio[:, start : start + block])
    return meter.finish()


def similarity(first, second):
    """At the best of all offsets."""
    return max(measure_similarity(first, second, at) for at in range(-len(second), len(first)))


def through(audio, container, subtype):
    file = io.BytesIO()
    soundfile.write(file, audio.T, SOURCE_HZ, format=container, subtype=subtype)
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)[0].T


def brighter(audio):
    """A gentle tilt of the spectrum, about 6 dB from bottom to top."""
    return audio - 0.33 * np.concatenate([audio[:, :1], audio[:, :-1]], axis=1)


CHANGES = {
    "quieter": lambda sound: (0.1 * sound, SOURCE_HZ),
    "at 48 kHz": lambda sound: (resample(sound, SOURCE_HZ, 48_000), 48_000),
    "as mp3": lambda sound: (through(sound, "MP3", "MPEG_LAYER_III"), SOURCE_HZ),
    "as ogg": lambda sound: (through(sound, "OGG", "VORBIS"), SOURCE_HZ),
    "in mono": lambda sound: (sound.mean(axis=0, keepdims=True), SOURCE_HZ),
    "cut start": lambda sound: (sound[:, SOURCE_HZ // 2 :], SOURCE_HZ),
    "odd cut": lambda sound: (sound[:, 14_321:-9_999], SOURCE_HZ),
    "brighter": lambda sound: (brighter(sound), SOURCE_HZ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_recording_is_known_again(change):
    original = melody(0)
    changed, rate_hz = CHANGES[change](original)
    assert similarity(fingerprint(original), fingerprint(changed, rate_hz)) > 0.85


def test_unrelated_recordings_are_told_apart():
    words = [fingerprint(melody(seed)) for seed in range(1, 5)]
    found = [similarity(a, b) for i, a in enumerate(words) for b in words[i + 1 :]]
    assert max(found) < 0.5


@settings(max_examples=8)
@given(st.lists(st.integers(50, 40_000), min_size=1, max_size=8), st.sampled_from([8000, 44_100]))
def test_words_are_the_same_for_any_blocks(sizes, rate_hz):
    sound = melody(3, 1.5)
    whole = fingerprint(sound, rate_hz)
    meter, start = FingerprintMeter(rate_hz, 2), 0
    while start < sound.shape[1]:
        size = sizes[start % len(sizes)]
        meter.add(sound[:, start : start + size])
        start += size
    assert np.array_equal(meter.finish(), whole)


def test_one_word_a_step():
    duration_s = 20.0
    words = fingerprint(melody(4, duration_s))
    assert len(words) == pytest.approx(duration_s * RATE_HZ / HOP_SAMPLES, abs=5)
    assert words.dtype == np.uint32
    assert np.count_nonzero(words != QUIET_WORD) > 0.9 * len(words)


@pytest.mark.parametrize("num_samples", [0, 1, 100, 3000, 50_000])
def test_silence_of_any_length_says_nothing(num_samples):
    assert fingerprint(np.zeros((1, num_samples), np.float32)).size == 0


@pytest.mark.parametrize("rate_hz", [4000, 11_025, 96_000, 192_000])
def test_every_sample_rate_has_a_fingerprint(rate_hz):
    words = fingerprint(melody(5, 1.0, rate_hz=rate_hz), rate_hz)
    assert np.count_nonzero(words) > 10


def test_silence_around_a_sound_plays_no_part():
    sound = melody(6, 3.0)
    padded = np.pad(sound, ((0, 0), (4 * SOURCE_HZ, 9 * SOURCE_HZ)))
    assert similarity(fingerprint(sound), fingerprint(padded)) > 0.95


def test_similarity_is_the_cosine_of_the_share_of_bits():
    words = np.arange(1, 101, dtype=np.uint32)
    assert measure_similarity(words, words, 0) == 1.0
    assert measure_similarity(words, words ^ np.uint32(0xFF), 0) == pytest.approx(math.sqrt(0.5))
    assert measure_similarity(words, ~words, 0) == 0.0
    assert measure_similarity(words[20:], words, -20) == 1.0


def test_a_short_overlap_is_no_similarity():
    words = np.arange(1, 101, dtype=np.uint32)
    assert measure_similarity(words, words[60:], 60) == 1.0
    assert measure_similarity(words, np.concatenate([words[60:], words[:60]]), 60) == 0.0
    assert measure_similarity(words, words, 1000) == 0.0
