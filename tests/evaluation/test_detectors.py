import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import AudioError
from melodac.evaluation.detectors import examine_clip
from melodac.tokens.statistics import NGRAM_FRAMES, repeated_ngram_share
from tests.evaluation.sounds import RATE_HZ, band, drone, level, noise, shuffle_frames, tone


def examine(audio, asked_s=None, codes=None):
    asked_s = audio.shape[1] / RATE_HZ if asked_s is None else asked_s
    return examine_clip(
        np.asarray(audio, np.float32), rate_hz=RATE_HZ, asked_s=asked_s, codes=codes
    )


def random_codes(num_frames, num_channels=1):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 1024, (num_channels, 9, num_frames), generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bpm", [70, 120, 170])
def test_a_little_band_is_ok(bpm, seed):
    assert examine(band(bpm=bpm, seed=seed), codes=random_codes(344)).labels == ("ok",)


def test_levels_are_those_of_the_sine():
    found = examine(tone(amplitude=0.5))
    assert found.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert found.rms_dbfs == pytest.approx(-9.03, abs=0.01)


@pytest.mark.parametrize(("rms_dbfs", "is_silent"), [(-49.9, False), (-50.1, True)])
def test_silence_begins_below_fifty_decibels(rms_dbfs, is_silent):
    audio = tone(amplitude=math.sqrt(2) * 10 ** (rms_dbfs / 20))
    assert ("silent" in examine(audio).labels) == is_silent


def test_digital_silence_is_silent_and_nothing_else_is_measured():
    found = examine(np.zeros((2, 3 * RATE_HZ), np.float32))
    assert (found.peak_dbfs, found.rms_dbfs, found.echo, found.change_db) == (None,) * 4
    assert found.labels == ("silent",)


def test_quiet_noise_is_silent_and_not_noise_too():
    assert examine(level(noise()[0], rms=1e-3)).labels == ("silent",)


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
    found = examine(np.clip(tone(amplitude=1.5, seconds=1.9), -1, 1))
    assert found.clipped_share == pytest.approx(1 - 2 / math.pi * math.asin(0.999 / 1.5), abs=0.01)
    assert found.labels == ("clipped",)


def test_a_few_full_scale_samples_are_not_clipping():
    audio = band()
    audio[0, :40] = 1.0
    assert examine(audio).labels == ("ok",)


@pytest.mark.parametrize(("missing_s", "is_truncated"), [(0.01, False), (0.1, True)])
def test_truncated_means_shorter_than_asked(missing_s, is_truncated):
    audio = tone(seconds=2.0 - missing_s)
    assert ("truncated" in examine(audio, asked_s=2.0).labels) == is_truncated


@pytest.mark.parametrize("seconds", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("slope", [0, 1, 2], ids=["white", "pink", "brown"])
def test_noise_of_any_colour_is_noise(slope, seconds):
    assert examine(noise(slope, seconds)).labels == ("noise",)


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_frames_are_noise(seed):
    """What a unigram sample is: every frame of music, none beside what came before it."""
    assert examine(shuffle_frames(band(seed=seed), seed)).labels == ("noise",)


def test_a_band_in_noise_is_music():
    assert examine(band() + 0.3 * noise()).labels == ("ok",)


@pytest.mark.parametrize("hiss", [0.0, 0.1, 0.4])
def test_a_chord_that_never_ends_is_static_also_under_hiss(hiss):
    assert examine(drone(hiss=hiss)).labels == ("static",)


def test_a_swelling_chord_moves_and_is_not_static():
    swell = np.sin(np.pi * np.linspace(0, 1, 4 * RATE_HZ)) + 0.01
    assert "static" not in examine(drone() * swell).labels


def test_a_drone_is_static_and_not_looping_too():
    held = torch.ones(1, 9, 344, dtype=torch.long)
    assert examine(drone(), codes=held).labels == ("static",)


def test_a_short_clip_is_neither_noise_nor_static():
    found = [examine(audio[:, :RATE_HZ]) for audio in (noise(), drone())]
    assert [one.labels for one in found] == [("ok",), ("ok",)]
    assert [one.echo for one in found] == [None, None]


def test_both_channels_of_stereo_are_heard():
    left, right = band(seed=1), noise()
    size = min(left.shape[1], right.shape[1])
    assert examine(np.concatenate([left[:, :size], 0.1 * right[:, :size]])).labels == ("ok",)
    assert examine(np.concatenate([right, right])).labels == ("noise",)


def test_every_label_has_its_reason_with_the_number():
    found = examine(noise())
    assert list(found.reasons) == ["noise"]
    assert f"echo {found.echo:.2f}" in found.reasons["noise"]
    assert examine(band()).reasons == {}


def test_repeated_codes_are_looping():
    codes = random_codes(43).repeat(1, 1, 8)
    assert examine(band(), codes=codes).labels == ("looping",)


def test_a_held_tone_with_moving_codes_is_not_looping():
    found = examine(tone(), codes=random_codes(172))
    assert found.repeated_share == 0.0
    assert "looping" not in found.labels


def test_a_held_note_is_no_loop():
    """Its first code stays for seconds, as in real music; what moves is in the codebooks after."""
    codes = random_codes(344)
    codes[:, 0] = codes[:, 0, ::86].repeat_interleave(86, dim=1)[:, :344]
    assert repeated_ngram_share(codes) > 0.8
    assert "looping" not in examine(band(), codes=codes).labels


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
