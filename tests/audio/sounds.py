"""Sounds that are made up, for tests of what measures and changes sound."""

import numpy as np
import soundfile

RATE_HZ = 44_100


def music(seed, duration_s, *, rate_hz=RATE_HZ, channels=1):
    """Notes of changing loudness over a little noise, peak near full scale."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(int(duration_s * rate_hz)) / rate_hz
    notes = [
        np.sin(2 * np.pi * rng.uniform(60, 1500) * time_s + rng.uniform(0, 6))
        * np.exp(-rng.uniform(0.5, 4) * np.abs(time_s - rng.uniform(0, duration_s)))
        for _ in range(6 * channels)
    ]
    sound = np.reshape(notes, (channels, 6, -1)).sum(axis=1)
    sound += 0.01 * rng.standard_normal(sound.shape)
    return (0.9 * sound / np.abs(sound).max()).astype(np.float32)


def write_wav(path, audio, rate_hz, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate_hz, subtype=subtype, format="WAV")


def cut(audio, lengths):
    """A track in pieces of the given lengths, over and over."""
    edges = np.cumsum(np.resize(lengths, audio.shape[1] // max(1, min(lengths)) + 1))
    return np.split(audio, edges[edges < audio.shape[1]], axis=1)
