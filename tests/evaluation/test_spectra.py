import numpy as np
import pytest

from melodac.errors import AudioError
from melodac.evaluation.spectra import (
    HELD_S,
    PARTIAL_HOP,
    PARTIAL_WINDOW,
    change_db,
    mel_levels,
    strongest_echo,
    track_partials,
)
from tests.evaluation.sounds import RATE_HZ, band, drone, noise, shuffle_frames, tone


def levels_of(audio):
    return mel_levels(audio, rate_hz=RATE_HZ)


def partials_of(audio):
    return track_partials(audio, rate_hz=RATE_HZ)


def test_a_full_scale_sine_is_at_zero_decibels():
    levels = levels_of(tone(amplitude=1.0))
    assert levels.max() == pytest.approx(0.0, abs=2.0)  # a band is wider than the sine's peak


def test_a_moment_of_music_foretells_another_and_one_of_noise_does_not():
    music = [strongest_echo(levels_of(band(seed=seed))) for seed in range(4)]
    broken = [strongest_echo(levels_of(shuffle_frames(band(seed=seed)))) for seed in range(4)]
    assert min(music) > 0.3
    assert max(*broken, strongest_echo(levels_of(noise()))) < 0.2


def test_the_echo_of_independent_frames_is_zero_whatever_their_spectrum():
    colours = np.random.default_rng(0).uniform(-60, 0, (40, 1))
    frames = colours + np.random.default_rng(1).normal(0, 6, (40, 340))
    assert abs(strongest_echo(frames.astype(np.float32))) < 0.1


def test_a_spectrum_that_never_moves_has_no_echo_and_no_change():
    frames = np.full((40, 340), -20, np.float32)
    assert strongest_echo(frames) == 0.0
    assert change_db(frames, rate_hz=RATE_HZ) == 0.0


def test_change_is_that_of_the_spectrum_and_not_of_chance():
    still, moving = (change_db(levels_of(audio), rate_hz=RATE_HZ) for audio in (drone(), band()))
    assert still < 0.5
    assert moving > 2.0


def test_change_of_a_clip_too_short_for_it_is_not_measured():
    assert change_db(levels_of(tone(seconds=1.0)), rate_hz=RATE_HZ) is None


def test_a_partial_lasts_as_long_as_its_note():
    audio = np.zeros((1, 2 * RATE_HZ), np.float32)
    audio[:, RATE_HZ // 2 : RATE_HZ] = tone(seconds=0.5, hz=1000.0)
    longest = float(partials_of(audio).seconds.max())
    blur = PARTIAL_WINDOW / RATE_HZ
    assert 0.5 - blur <= longest <= 0.5 + 2 * blur
    frames = longest * RATE_HZ / PARTIAL_HOP
    assert frames == pytest.approx(round(frames), abs=1e-3)


def test_two_notes_at_once_are_two_partials_of_their_own_length():
    audio = tone(seconds=2.0, hz=1000.0)
    audio[:, :RATE_HZ] += tone(seconds=1.0, hz=2000.0)
    seconds = partials_of(audio).seconds
    bins = [round(hz * PARTIAL_WINDOW / RATE_HZ) for hz in (1000.0, 2000.0)]
    longest = [float(seconds[at - 1 : at + 2].max()) for at in bins]
    assert longest == [pytest.approx(1.93, abs=0.05), pytest.approx(1.0, abs=0.15)]


def test_a_held_sine_holds_two_thirds_of_the_power_and_noise_nothing():
    assert partials_of(tone()).held_share_of_clip == pytest.approx(2 / 3, abs=0.02)
    assert partials_of(noise()).held_share_of_clip < 0.01
    assert partials_of(shuffle_frames(band())).held_share_of_clip < 0.1


def test_peaks_of_noise_die_before_they_count_as_held():
    seconds = partials_of(noise()).seconds
    assert np.quantile(seconds[seconds > 0], 0.99) < HELD_S


def test_a_clip_shorter_than_a_window_is_refused():
    with pytest.raises(AudioError, match="100 samples: needs at least 2048"):
        levels_of(np.zeros((1, 100), np.float32))


def test_samples_that_are_not_finite_are_refused():
    audio = tone()
    audio[0, 7] = np.inf
    with pytest.raises(AudioError, match="got 1 of 88200"):
        partials_of(audio)
