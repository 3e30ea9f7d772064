"""True peak the slow way: every point of the waveform drawn, sixteen times as finely or eight."""

import numpy as np
from scipy import signal


def draw_all(audio, oversampling):
    """Highest absolute value of the whole waveform, by scipy's polyphase resampler."""
    # the waveform swings on after the last sample
    padded = np.pad(audio.astype(np.float64), ((0, 0), (20, 20)))
    drawn = signal.resample_poly(padded, oversampling, 1, axis=1)
    return float(np.abs(drawn).max())
