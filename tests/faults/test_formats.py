"""Every format is read to its last sample, whatever its header or its name says."""

import numpy as np
import pytest

from melodac.audio.files.read import open_audio, read_audio
from tests.faults.sound_formats import ODD, PLAIN
from tests.faults.sounds import RATE_HZ, chords


@pytest.mark.parametrize("case", [*PLAIN, *ODD], ids=lambda case: case.name)
def test_a_whole_file_is_read_whole(tmp_path, case):
    path = tmp_path / case.name.rpartition("/")[2]
    case.make(path)
    with open_audio(path) as file:
        num_samples = sum(block.shape[1] for block in file.blocks(30.0))
        decoded_s = num_samples / file.info.sample_rate_hz
        assert case.duration_s - 1e-9 <= decoded_s <= case.duration_s + case.tolerance_s + 1e-9
        assert not case.decoder or file.info.decoder == case.decoder


def best_shift(sound, reference, reach=3000):
    spectrum = np.fft.rfft(sound, 1 << 18) * np.conj(np.fft.rfft(reference, 1 << 18))
    found = np.fft.irfft(spectrum)
    return max(range(-reach, reach), key=lambda shift: found[shift])


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_sound_is_the_one_that_was_written(tmp_path, case):
    """Level, polarity and order of channels; a lossless format in the right place as well."""
    path = tmp_path / case.name.rpartition("/")[2]
    case.make(path)
    audio, rate_hz = read_audio(path, 30.0)
    seed = 1 + PLAIN.index(case)
    expected = chords(seed, channels=audio.shape[0], rate_hz=rate_hz)
    shift = best_shift(audio[0], expected[0])
    start, length = max(shift, 0), expected.shape[1] - 4096
    heard = audio[:, start : start + length]
    assert heard.shape[1] >= length - 4096
    meant = expected[:, max(-shift, 0) :][:, : heard.shape[1]]
    error = np.sqrt(((heard - meant) ** 2).mean() / (meant**2).mean())
    assert error < 0.35
    if case.tolerance_s == 0.0:
        assert shift == 0
    assert rate_hz in {RATE_HZ, 48_000, 22_050}
