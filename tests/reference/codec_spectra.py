"""Slow references of the codec's spectral distances: explicit DFT sums, one frame at a time."""

import librosa
import numpy as np


def mel_distance(ours: np.ndarray, theirs: np.ndarray, rate_hz: int) -> float:
    """Multi-scale log10 mel distance of two signals of shape (samples,)."""
    windows = (32, 64, 128, 256, 512, 1024, 2048)
    bands = (5, 10, 20, 40, 80, 160, 320)
    total = 0.0
    for window, num_bands in zip(windows, bands, strict=True):
        bank = librosa.filters.mel(sr=rate_hz, n_fft=window, n_mels=num_bands)
        a, b = (
            np.log10(np.maximum(bank @ magnitudes(signal, window), 1e-5))
            for signal in (ours, theirs)
        )
        total += np.abs(a - b).mean()
    return total


def magnitudes(signal: np.ndarray, window: int) -> np.ndarray:
    """Magnitudes (bins, frames) with a periodic Hann window and a hop of a quarter."""
    padded = np.pad(signal.astype(np.float64), window // 2, mode="reflect")
    n = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    k = np.arange(window // 2 + 1)
    basis = np.exp(-2j * np.pi * np.outer(k, n) / window)
    starts = range(0, len(padded) - window + 1, window // 4)
    return np.stack([np.abs(basis @ (padded[s : s + window] * hann)) for s in starts], axis=1)
