"""Spectral distances equal slow references and behave like distances."""

import numpy as np
import pytest
import torch

from melodac.codec.training.measure import si_sdr_db
from melodac.codec.training.spectral import spectral_terms, spectrum
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
    assert (float(terms.mel), float(terms.log_magnitude), float(terms.complex_spectrum)) == (
        0,
        0,
        0,
    )


def test_only_the_complex_distance_hears_a_flipped_sign():
    terms = spectral_terms(-noise(0), noise(0), RATE_HZ)
    assert float(terms.mel) == pytest.approx(0, abs=1e-5)
    assert float(terms.complex_spectrum) == pytest.approx(
        6, rel=1e-3
    )  # twice the target, 3 windows


def test_phase_counts_only_up_to_its_limit():
    time_s = torch.arange(8192) / RATE_HZ
    low, high = (torch.sin(2 * torch.pi * hz * time_s)[None] for hz in (500.0, 9000.0))
    limited = spectral_terms(low - high, low + high, RATE_HZ, 3000.0).complex_spectrum
    assert float(limited) < 0.15  # the edges leak
    assert float(spectral_terms(low - high, low + high, RATE_HZ).complex_spectrum) > 1
    assert float(spectral_terms(high - low, low + high, RATE_HZ, 3000.0).complex_spectrum) > 1


def test_only_a_louder_line_counts_as_one():
    time_s = torch.arange(8192) / RATE_HZ
    line, beside = (1e-3 * torch.sin(2 * torch.pi * hz * time_s)[None] for hz in (2756.25, 3100.0))
    music = noise(0, 8192)
    quiet = float(spectral_terms(music, music + line, RATE_HZ).lines)
    assert float(spectral_terms(music + 10 * line, music, RATE_HZ).lines) > quiet + 0.02
    assert float(spectral_terms(music + 10 * beside, music, RATE_HZ).lines) < 0.01


def test_silence_gives_finite_gradients():
    silence = torch.zeros(1, 5000, requires_grad=True)
    terms = spectral_terms(silence, torch.zeros(1, 5000), RATE_HZ)
    (terms.mel + terms.log_magnitude + terms.complex_spectrum).backward()
    assert silence.grad is not None
    assert torch.isfinite(silence.grad).all()


def test_si_sdr_of_known_noise():
    target, other = noise(0, 200_000), noise(1, 200_000)
    assert si_sdr_db(target + 0.1 * other, target) == pytest.approx(20, abs=0.1)


def test_si_sdr_ignores_scale():
    target, other = noise(0), noise(1)
    mixed = target + 0.3 * other
    assert si_sdr_db(0.2 * mixed, target) == pytest.approx(si_sdr_db(mixed, target), abs=1e-3)
