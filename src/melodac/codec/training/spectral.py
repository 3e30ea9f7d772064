"""Spectral distances between audio and its reconstruction, vectorised over a batch of crops.

One short-time Fourier transform a window feeds every term. Used by training and its evaluation.
"""

import math
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
"""Magnitude below which a logarithm is cut. Source: DAC's 44.1 kHz configuration."""
_LONG = 512  # windows from here on resolve partials: log magnitude and phase count there


@dataclass(frozen=True)
class SpectralTerms:
    """Distances summed over windows; each is a mean over crops, frames and bands."""

    mel: Float[Tensor, ""]
    """Log10 mel distance."""
    log_magnitude: Float[Tensor, ""]
    """Log10 magnitude distance, long windows only."""
    complex_spectrum: Float[Tensor, ""]
    """Absolute complex difference over the target's mean magnitude, long windows only.

    Where phase cannot be coded, its minimum is silence: too far up it makes a codec dull.
    """
    lines: Float[Tensor, ""]
    """Log10 magnitude by which multiples of one frequency are louder than in the target.

    A transposed convolution whistles at the rate of its stride; averaged over all bins no distance
    hears it.
    """


def spectrum(audio: Float[Tensor, "B N"], window: int) -> Complex[Tensor, "B _ _"]:
    """Short-time Fourier transform with a Hann window, a hop of a quarter, reflected edges."""
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
    reconstruction: Float[Tensor, "B N"],
    target: Float[Tensor, "B N"],
    sample_rate_hz: int,
    phase_below_hz: float = math.inf,
    *,
    line_period: int = 16,
) -> SpectralTerms:
    """Measure all spectral distances at once; differentiable in `reconstruction`.

    Args:
        reconstruction: What came out.
        target: What went in.
        sample_rate_hz: Of both.
        phase_below_hz: Frequency up to which the complex spectrum is compared.
        line_period: Samples of the lowest line; divides the longest window.
    """
    mel = reconstruction.new_zeros(())
    log_magnitude = reconstruction.new_zeros(())
    complex_spectrum = reconstruction.new_zeros(())
    lines = reconstruction.new_zeros(())
    for window, bands in zip(WINDOWS, MEL_BANDS, strict=True):
        ours, theirs = spectrum(reconstruction, window), spectrum(target, window)
        ours_magnitude, theirs_magnitude = ours.abs(), theirs.abs()
        bank = _mel_bank(window, bands, sample_rate_hz, target.device)
        mel = mel + _log_distance(bank @ ours_magnitude, bank @ theirs_magnitude)
        if window >= _LONG:
            log_magnitude = log_magnitude + _log_distance(ours_magnitude, theirs_magnitude)
            bins = math.ceil(min(phase_below_hz / sample_rate_hz, 0.5) * window) + 1
            difference = (ours[:, :bins] - theirs[:, :bins]).abs().mean()
            level = theirs_magnitude[:, :bins].mean() + FLOOR
            complex_spectrum = complex_spectrum + difference / level
        if window == WINDOWS[-1]:
            step = window // line_period
            lines = _excess(ours_magnitude[:, step::step], theirs_magnitude[:, step::step])
    return SpectralTerms(mel, log_magnitude, complex_spectrum, lines)


def _log_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.clamp(min=FLOOR).log10() - theirs.clamp(min=FLOOR).log10()).abs().mean()


def _excess(ours: Tensor, theirs: Tensor) -> Tensor:
    louder = ours.clamp(min=FLOOR).log10() - theirs.clamp(min=FLOOR).log10()
    return louder.clamp(min=0.0).mean()


@cache
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)


@cache
def _mel_bank(window: int, bands: int, sample_rate_hz: int, device: torch.device) -> Tensor:
    bank = librosa.filters.mel(sr=sample_rate_hz, n_fft=window, n_mels=bands)
    return torch.as_tensor(bank, device=device)
