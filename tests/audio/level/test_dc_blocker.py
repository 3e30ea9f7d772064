"""Laws of taking an offset out: it goes, the music stays, silence stays silent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.loudness import measure_loudness
from melodac.audio.level.normalize import DcBlocker
from tests.audio.sounds import RATE_HZ, cut, music


def block_dc(audio, lengths=(1 << 16,)):
    blocker = DcBlocker(RATE_HZ, audio.shape[0])
    blocks = [blocker.add(block) for block in cut(audio, lengths)]
    return np.concatenate([*blocks, blocker.finish()], axis=1)


@given(
    num_samples=st.integers(1, 3 * RATE_HZ),
    lengths=st.lists(st.integers(5000, 60_000), min_size=1, max_size=4),
)
@settings(max_examples=20, deadline=None)
def test_the_samples_do_not_depend_on_how_the_track_was_cut(num_samples, lengths):
    audio = np.random.default_rng(0).uniform(-1, 1, (2, num_samples)).astype(np.float32)
    np.testing.assert_array_equal(block_dc(audio, lengths), block_dc(audio))
    assert block_dc(audio).shape == audio.shape


@pytest.mark.parametrize("duration_s", [0.1, 0.9, 5.0])
def test_a_constant_offset_is_gone_from_the_first_sample_on(duration_s):
    silence = np.full((1, int(duration_s * RATE_HZ)), 0.1, np.float32)
    assert np.abs(block_dc(silence)).max() < 1e-6


def test_each_channel_has_its_own_offset():
    audio = music(0, 3.0, channels=2) + np.array([[0.1], [-0.05]], np.float32)
    assert np.abs(block_dc(audio).mean(axis=1)).max() < 1e-3


def test_silence_after_a_lopsided_sound_stays_silence():
    # its mean is 0.01: subtracting that would leave the rest at -40 dBFS
    hit = np.zeros((1, 2 * RATE_HZ), np.float32)
    hit[0, :4000] = 0.5 * np.hanning(4000)
    result = block_dc(hit)
    assert hit.mean() > 0.01
    assert np.abs(result[0, -RATE_HZ:]).max() < 1e-4


@pytest.mark.parametrize("frequency_hz", [30.0, 100.0, 1000.0])
def test_tones_keep_their_level(frequency_hz):
    time_s = np.arange(3 * RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * frequency_hz * time_s).astype(np.float32)[None]
    level_db = 20 * np.log10(np.abs(block_dc(tone)[0, RATE_HZ:]).max())
    assert level_db == pytest.approx(0.0, abs=0.03)


def test_blocking_twice_changes_next_to_nothing():
    once = block_dc(music(1, 3.0) + np.float32(0.05))
    apart = measure_loudness(block_dc(once), RATE_HZ) - measure_loudness(once, RATE_HZ)
    assert abs(apart) < 0.01
