"""Spectral distances equal slow references and behave like distances."""

import numpy as np
import pytest
import torch

from melodac.codec_training.measure import si_sdr_db
from melodac.codec_training.spectral import spectral_terms, spectrum
from tests.reference.codec_spectra import magnitudes, mel_distance

RATE_HZ = 44_100


def noise(seed: int, samples: int = 5000) -> torch.Tensor:
    return 0.2 * torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", [32, 2048])
def test_magnitudes_equal_explicit_sums(window):
    ours = spectrum(noise(0), window).abs()[0].numpy()
    np.testing.assert_allclose(ours, magnitudes(noise(0)[0].numpy(), window), rtol=1e-3, atol=1e-4)


def test_mel_distance_equals_the_reference():
    a, b = noise(0, 2100), noise(1, 2100)
    expected = mel_distance(a[0].numpy(), b[0].numpy(), RATE_HZ)
    assert float(spectral_terms(a, b, RATE_HZ).mel) == pytest.approx(expected, rel=1e-4)


def test_equal_audio_has_no_distance():
    terms = spectral_terms(noise(0), noise(0), RATE_HZ)
    assert (float(terms.mel), float(terms.log_magnitude)) == (0, 0)


def test_a_flipped_sign_is_not_heard():
    terms = spectral_terms(-noise(0), noise(0), RATE_HZ)
    assert float(terms.mel) == pytest.approx(0, abs=1e-5)
    assert float(terms.log_magnitude) == pytest.approx(0, abs=1e-5)


def test_ten_times_the_amplitude_is_one_in_every_window():
    terms = spectral_terms(10 * noise(0), noise(0), RATE_HZ)
    assert float(terms.mel) == pytest.approx(7, rel=1e-2)  # seven windows
    assert float(terms.log_magnitude) == pytest.approx(3, rel=1e-2)  # the three longest


def test_silence_gives_finite_gradients():
    silence = torch.zeros(1, 5000, requires_grad=True)
    terms = spectral_terms(silence, torch.zeros(1, 5000), RATE_HZ)
    (terms.mel + terms.log_magnitude).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


def test_si_sdr_of_known_noise():
    target, other = noise(0, 200_000), noise(1, 200_000)
    assert si_sdr_db(target + 0.1 * other, target) == pytest.approx(20, abs=0.1)


def test_si_sdr_ignores_scale():
    target, other = noise(0), noise(1)
    mixed = target + 0.3 * other
    assert si_sdr_db(0.2 * mixed, target) == pytest.approx(si_sdr_db(mixed, target), abs=1e-3)
