"""Laws of where the sound of a track begins and ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.level.normalize import SoundBounds
from tests.audio.sounds import cut


def find(audio, margin=0, lengths=(50,), level_dbfs=-60.0):
    bounds = SoundBounds(level_dbfs)
    for block in cut(audio, lengths):
        bounds.add(block)
    return bounds.with_margin(margin)


@given(
    num_samples=st.integers(1, 200),
    loud=st.lists(st.integers(0, 199), max_size=4),
    margin=st.integers(0, 60),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_bounds_are_the_first_and_last_loud_sample_and_the_margin(
    num_samples, loud, margin, lengths
):
    loud = [position for position in loud if position < num_samples]
    audio = np.full((2, num_samples), 0.000_9, np.float32)
    for position in loud:
        audio[position % 2, position] = -0.001_1
    expected = None
    if loud:
        expected = max(0, min(loud) - margin), min(num_samples, max(loud) + 1 + margin)
    assert find(audio, margin, lengths) == expected


def test_what_is_at_the_level_is_sound():
    audio = np.full((1, 10), 10 ** (-20 / 20), np.float32)
    assert find(audio, level_dbfs=-20.1) == (0, 10)
    assert find(audio, level_dbfs=-19.9) is None


@pytest.mark.parametrize("num_samples", [0, 5])
def test_silence_has_no_bounds(num_samples):
    assert find(np.zeros((1, num_samples), np.float32), margin=3) is None
