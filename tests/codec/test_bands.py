"""Dullness is measured: levels and distances of each part of the spectrum."""

import pytest
import torch

from melodac.codec_training.measure import EDGES_HZ, measure_bands

RATE_HZ = 44_100


def tones(*frequencies_hz: float) -> torch.Tensor:
    time_s = torch.arange(RATE_HZ) / RATE_HZ
    return sum(0.2 * torch.sin(2 * torch.pi * hz * time_s) for hz in frequencies_hz)[None]


FULL = tones(200.0, 1000.0, 4000.0, 12_000.0)


def test_equal_sound_has_no_distance_and_no_change_of_level():
    for band in measure_bands(FULL, FULL, RATE_HZ):
        assert (band.distance_db, band.energy_db) == (0, 0)


def test_bands_meet_and_cover_everything():
    bands = measure_bands(FULL, FULL, RATE_HZ)
    assert [band.low_hz for band in bands] == list(EDGES_HZ[:-1])
    assert [band.high_hz for band in bands] == list(EDGES_HZ[1:])
    assert [band.label for band in bands][::3] == ["0_500_hz", "8000_up_hz"]


def test_half_the_amplitude_is_six_decibels_less_everywhere():
    for band in measure_bands(0.5 * FULL, FULL, RATE_HZ):
        assert band.energy_db == pytest.approx(-6.02, abs=0.02)


@pytest.mark.parametrize("missing", range(4))
def test_a_missing_tone_shows_in_its_band_alone(missing):
    frequencies = [200.0, 1000.0, 4000.0, 12_000.0]
    dull = tones(*(hz for index, hz in enumerate(frequencies) if index != missing))
    for index, band in enumerate(measure_bands(dull, FULL, RATE_HZ)):
        if index == missing:
            assert band.energy_db < -20
        else:
            assert band.energy_db == pytest.approx(0, abs=0.1)


def test_what_is_far_below_hearing_counts_as_silence():
    silence = torch.zeros(1, RATE_HZ)
    for band in measure_bands(silence, 1e-6 * FULL, RATE_HZ):
        assert (band.distance_db, band.energy_db) == pytest.approx((0, 0), abs=1e-3)
