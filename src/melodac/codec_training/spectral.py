"""Spectral distances between audio and its reconstruction, vectorised over a batch of crops.

One short-time Fourier transform per window feeds every term. Used in training and in evaluation.
"""

from dataclasses import dataclass
from functools import cache

import librosa
import torch
from jaxtyping import Complex, Float
from torch import Tensor

WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
"""Window lengths in samples, a hop of a quarter each. Source: DAC's 44.1 kHz configuration."""
MEL_BANDS = (5, 10, 20, 40, 80, 160, 320)
"""Mel bands per window. Source: DAC's 44.1 kHz configuration."""
FLOOR = 1e-5
"""Magnitude at which logarithms are clamped. Source: DAC's 44.1 kHz configuration."""
_LONG = 512  # windows from here on resolve partials, so log magnitude is compared for these only


@dataclass(frozen=True)
class SpectralTerms:
    """Distances summed over windows; each is a mean over crops, frames and bands."""

    mel: Float[Tensor, ""]
    """Log10 mel distance."""
    log_magnitude: Float[Tensor, ""]
    """Log10 magnitude distance, long windows only."""


def spectrum(audio: Float[Tensor, "B N"], window: int) -> Complex[Tensor, "B _ _"]:
    """Return the short-time Fourier transform: Hann window, hop of a quarter, reflected edges."""
    return torch.stft(
        audio,
        window,
        window // 4,
        window=_hann(window, audio.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )


def spectral_terms(
    reconstruction: Float[Tensor, "B N"], target: Float[Tensor, "B N"], sample_rate_hz: int
) -> SpectralTerms:
    """Measure both distances at once; differentiable in `reconstruction`."""
    mel = reconstruction.new_zeros(())
    log_magnitude = reconstruction.new_zeros(())
    for window, bands in zip(WINDOWS, MEL_BANDS, strict=True):
        ours, theirs = (_magnitude(spectrum(audio, window)) for audio in (reconstruction, target))
        bank = _mel_bank(window, bands, sample_rate_hz, target.device)
        mel = mel + _log_distance(bank @ ours, bank @ theirs)
        if window >= _LONG:
            log_magnitude = log_magnitude + _log_distance(ours, theirs)
    return SpectralTerms(mel, log_magnitude)


def _magnitude(spectrum: Complex[Tensor, "B _ _"]) -> Float[Tensor, "B _ _"]:
    """Return absolute values, three times faster than `abs`; clamped far below the floor."""
    real, imaginary = spectrum.real, spectrum.imag
    return (real * real + imaginary * imaginary).clamp(min=1e-3 * FLOOR**2).sqrt()


def _log_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.clamp(min=FLOOR).log10() - theirs.clamp(min=FLOOR).log10()).abs().mean()


@cache
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)


@cache
def _mel_bank(window: int, bands: int, sample_rate_hz: int, device: torch.device) -> Tensor:
    bank = librosa.filters.mel(sr=sample_rate_hz, n_fft=window, n_mels=bands)
    return torch.as_tensor(bank, device=device)
