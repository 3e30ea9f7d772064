"""Laws of mixing: what is in the middle stays in the middle, left stays left, nothing is guessed."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.files.read import open_audio
from melodac.audio.level.convert import count_mixed, mix, to_mono
from melodac.errors import AudioError

POLICIES = ["mono", "stereo", "keep"]


def numbered(channels):
    """Channel k holds the single sample 2**k, so that a mix tells what went into it."""
    return 2.0 ** np.arange(channels, dtype=np.float32)[:, None]


def test_mono_is_the_mean_and_cannot_clip():
    audio = np.array([[1.0, -1.0, 0.5], [1.0, 1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(to_mono(audio), [[1.0, 0.0, 0.25]])
    np.testing.assert_array_equal(to_mono(audio[:1]), audio[:1])


@given(channels=st.integers(1, 8), policy=st.sampled_from(POLICIES), length=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_as_many_channels_come_out_as_announced(channels, policy, length):
    audio = np.random.default_rng(0).uniform(-1, 1, (channels, length)).astype(np.float32)
    for container in ("FLAC", "OGG"):
        mixed = mix(audio, policy, container=container)
        assert mixed.shape == (count_mixed(policy, channels), length)
        assert mixed.dtype == np.float32


def test_one_or_two_channels_stay_what_they_are():
    one, two = numbered(1), numbered(2)
    np.testing.assert_array_equal(mix(one, "keep", container="WAV"), one)
    np.testing.assert_array_equal(mix(two, "keep", container="WAV"), two)
    np.testing.assert_array_equal(mix(two, "stereo", container="WAV"), two)
    np.testing.assert_array_equal(mix(one, "stereo", container="WAV"), [[1.0], [1.0]])


@pytest.mark.parametrize("channels", range(3, 9))
def test_both_orders_name_the_same_channels_and_treat_both_sides_alike(channels):
    sides = {
        container: mix(np.eye(channels, dtype=np.float32), "stereo", container=container)
        for container in ("FLAC", "OGG")
    }
    for left, right in sides.values():
        assert sorted(left) == sorted(right)
        assert left[0] == 1.0
    assert sorted(sides["FLAC"][0]) == sorted(sides["OGG"][0])


def test_surround_follows_the_standard():
    # front left and right, centre, low frequencies, back left and right; BS.775-3, table 2
    left, right = mix(np.eye(6, dtype=np.float32), "stereo", container="FLAC")
    np.testing.assert_allclose(left, [1, 0, 0.7071, 0, 0.7071, 0], atol=1e-4)
    np.testing.assert_allclose(right, [0, 1, 0.7071, 0, 0, 0.7071], atol=1e-4)


def test_the_centre_of_a_vorbis_file_is_its_second_channel(tmp_path):
    tones = 0.3 * np.sin(
        np.outer([0.02, 0.05, 0.08, 0.11, 0.14, 0.003], np.arange(44_100)) * 2 * np.pi
    )
    soundfile.write(tmp_path / "surround.ogg", tones.T, 44_100)
    with open_audio(tmp_path / "surround.ogg") as file:
        mixed = [mix(b, "stereo", container=file.info.container) for b in file.blocks(10.0)]
    spectra = np.abs(np.fft.rfft(np.concatenate(mixed, axis=1)[:, 4410:39_690], axis=1))
    levels = spectra[:, np.rint(np.array([0.02, 0.05, 0.08]) * 35_280).astype(int)]
    in_left, in_right = levels > 0.1 * levels.max()
    assert in_left.tolist() == [True, True, False]
    assert in_right.tolist() == [False, True, True]


def test_more_channels_than_have_an_order_are_refused_for_stereo_only():
    with pytest.raises(AudioError, match="channels: 9, at most 8 have an agreed order"):
        mix(numbered(9), "stereo", container="WAV")
    assert mix(numbered(9), "mono", container="WAV").shape == (1, 1)
