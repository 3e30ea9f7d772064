import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import AudioError
from melodac.evaluation.detectors import examine_clip
from melodac.tokens.repeats import NGRAM_FRAMES, repeated_ngram_share

RATE_HZ = 44_100


def tone(amplitude=0.3, seconds=2.0, hz=440.0):
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * hz * times)).astype(np.float32)[None]


def noise(slope, seconds=4.0):
    """Gaussian noise whose power falls with frequency ** slope."""
    spectrum = np.fft.rfft(np.random.default_rng(3).normal(size=int(seconds * RATE_HZ)))
    spectrum[1:] /= np.arange(1, spectrum.size) ** (slope / 2)
    spectrum[0] = 0
    audio = np.fft.irfft(spectrum)
    return (0.1 * audio / audio.std()).astype(np.float32)[None]


def examine(audio, asked_s=None, codes=None):
    asked_s = audio.shape[1] / RATE_HZ if asked_s is None else asked_s
    return examine_clip(audio, rate_hz=RATE_HZ, asked_s=asked_s, codes=codes)


def random_codes(num_frames, num_channels=1):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 1024, (num_channels, 9, num_frames), generator=generator)


def test_a_plain_tone_is_ok():
    assert examine(tone(), codes=random_codes(172)).labels == ("ok",)


def test_levels_are_those_of_the_sine():
    found = examine(tone(amplitude=0.5))
    assert found.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert found.rms_dbfs == pytest.approx(-9.03, abs=0.01)


@pytest.mark.parametrize(("rms_dbfs", "is_silent"), [(-49.9, False), (-50.1, True)])
def test_silence_begins_below_fifty_decibels(rms_dbfs, is_silent):
    audio = tone(amplitude=math.sqrt(2) * 10 ** (rms_dbfs / 20))
    assert ("silent" in examine(audio).labels) == is_silent


def test_digital_silence_has_no_level_and_no_flatness():
    found = examine(np.zeros((2, RATE_HZ), np.float32))
    assert (found.peak_dbfs, found.rms_dbfs, found.flatness) == (None, None, None)
    assert found.labels == ("silent",)


def test_an_empty_clip_is_silent_and_truncated_and_nothing_is_measured():
    found = examine(np.zeros((1, 0), np.float32), asked_s=1.0)
    assert found.labels == ("silent", "truncated")
    assert found.clipped_share is None


def test_silence_is_not_called_looping():
    found = examine(
        np.zeros((1, RATE_HZ), np.float32), codes=torch.zeros(1, 9, 86, dtype=torch.long)
    )
    assert found.repeated_share == pytest.approx(1 - 1 / 79)
    assert found.labels == ("silent",)


def test_an_overdriven_clip_is_clipped():
    found = examine(np.clip(tone(amplitude=1.5), -1, 1))
    assert found.clipped_share == pytest.approx(1 - 2 / math.pi * math.asin(0.999 / 1.5), abs=0.01)
    assert found.labels == ("clipped",)


def test_a_few_full_scale_samples_are_not_clipping():
    audio = tone()
    audio[0, :40] = 1.0
    assert examine(audio).labels == ("ok",)


@pytest.mark.parametrize(("missing_s", "is_truncated"), [(0.01, False), (0.1, True)])
def test_truncated_means_shorter_than_asked(missing_s, is_truncated):
    audio = tone(seconds=2.0 - missing_s)
    assert ("truncated" in examine(audio, asked_s=2.0).labels) == is_truncated


@pytest.mark.parametrize("slope", [0, 1, 2], ids=["white", "pink", "brown"])
def test_noise_of_any_colour_is_noise(slope):
    assert examine(noise(slope)).labels == ("noise",)


def test_a_chord_in_noise_is_music():
    chord = sum(tone(amplitude=0.2, seconds=4.0, hz=hz) for hz in (220.0, 277.2, 329.6))
    assert examine((chord + 0.2 * noise(0)).astype(np.float32)).labels == ("ok",)


def test_a_clip_shorter_than_a_window_has_no_flatness():
    assert examine(tone(seconds=0.18)).flatness is None


def test_repeated_codes_are_looping():
    codes = random_codes(43).repeat(1, 1, 4)
    assert examine(tone(), codes=codes).labels == ("looping",)


def test_a_held_tone_with_moving_codes_is_not_looping():
    found = examine(tone(), codes=random_codes(172))
    assert found.repeated_share == 0.0
    assert "looping" not in found.labels


def test_a_stereo_clip_loops_only_if_both_channels_do():
    codes = random_codes(172, num_channels=2)
    codes[0] = codes[0, :, :10].repeat(1, 18)[:, :172]
    assert repeated_ngram_share(codes) == 0.0
    codes[1] = codes[0]
    assert repeated_ngram_share(codes) == pytest.approx(1 - 10 / 165)


@given(codes=st.lists(st.integers(0, 2), min_size=0, max_size=40))
def test_repeated_share_matches_the_loop(codes):
    share = repeated_ngram_share(torch.tensor(codes, dtype=torch.long).reshape(1, 1, -1))
    seen, repeated = set(), []
    for start in range(len(codes) - NGRAM_FRAMES + 1):
        ngram = tuple(codes[start : start + NGRAM_FRAMES])
        repeated.append(ngram in seen)
        seen.add(ngram)
    expected = None if len(repeated) < 2 else sum(repeated) / len(repeated)
    assert share == (None if expected is None else pytest.approx(expected))


def test_missing_codes_leave_looping_unmeasured():
    assert examine(tone(), codes=None).repeated_share is None


def test_samples_that_are_not_finite_are_refused():
    audio = tone()
    audio[0, 7] = np.nan
    with pytest.raises(AudioError, match="got 1 of 88200"):
        examine(audio)
