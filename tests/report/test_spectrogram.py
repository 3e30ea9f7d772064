import numpy as np
import pytest
from PIL import Image

from melodac.errors import OutputError
from melodac.report.spectrogram import HEIGHT_PIXELS, WIDTH_PIXELS, write_spectrogram

RATE_HZ = 44_100


def tone(hz, seconds=2.0, amplitude=0.5):
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (amplitude * np.sin(2 * np.pi * hz * times)).astype(np.float32)[None]


def pixels(path, audio, rate_hz=RATE_HZ):
    """Colour indices, quiet 0 to loud 63, first row at the top."""
    write_spectrogram(path, audio, rate_hz=rate_hz)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image).copy()


@pytest.mark.parametrize("seconds", [0.01, 1.0, 45.0])
def test_every_picture_has_the_same_size(tmp_path, seconds):
    assert pixels(tmp_path / "a.png", tone(440, seconds)).shape == (HEIGHT_PIXELS, WIDTH_PIXELS)


def test_high_notes_stand_above_low_notes(tmp_path):
    low = pixels(tmp_path / "low.png", tone(110))[:, 300].argmax()
    high = pixels(tmp_path / "high.png", tone(3520))[:, 300].argmax()
    assert high < low - 20


def test_equal_levels_have_equal_colours_whatever_else_the_clip_holds(tmp_path):
    quiet = tone(440, amplitude=0.01)
    alone = pixels(tmp_path / "alone.png", quiet)
    before_loud = pixels(tmp_path / "both.png", np.concatenate([quiet, tone(440)], axis=1))
    assert np.array_equal(alone[:, 100].max(), before_loud[:, 50].max())
    assert before_loud.max() > alone.max()


def test_a_column_shows_its_own_moment(tmp_path):
    audio = np.zeros((1, 4 * RATE_HZ), np.float32)
    audio[0, 3 * RATE_HZ] = 1.0
    loudest = pixels(tmp_path / "click.png", audio).astype(int).sum(axis=0).argmax()
    assert abs(loudest - 0.75 * WIDTH_PIXELS) <= 3


@pytest.mark.parametrize("num_samples", [0, RATE_HZ])
def test_silence_is_the_darkest_colour(tmp_path, num_samples):
    assert pixels(tmp_path / "silent.png", np.zeros((2, num_samples), np.float32)).max() == 0


def test_the_worst_case_stays_under_40_kilobytes(tmp_path):
    audio = np.random.default_rng(0).normal(size=(2, 10 * RATE_HZ)).astype(np.float32) * 0.2
    write_spectrogram(tmp_path / "noise.png", audio, rate_hz=RATE_HZ)
    assert (tmp_path / "noise.png").stat().st_size < 40_000


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_other_sample_rates_are_drawn(tmp_path, rate_hz):
    assert pixels(tmp_path / "rate.png", tone(440), rate_hz).max() > 50


def test_equal_audio_gives_equal_bytes(tmp_path):
    for name in ("first.png", "second.png"):
        write_spectrogram(tmp_path / name, tone(440), rate_hz=RATE_HZ)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"missing/a\.png"):
        write_spectrogram(tmp_path / "missing" / "a.png", tone(440), rate_hz=RATE_HZ)
