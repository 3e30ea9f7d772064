"""Sounds of which everybody knows what they are: noise, drones, shuffled frames, a little band."""

import numpy as np

RATE_HZ = 44_100
GRAIN, HOP = 2048, 512


def level(audio, rms=0.1):
    audio = np.asarray(audio, dtype=np.float64)
    return (rms * audio / np.sqrt(np.square(audio).mean())).astype(np.float32)[None]


def times(seconds):
    return np.arange(int(seconds * RATE_HZ)) / RATE_HZ


def tone(amplitude=0.3, seconds=2.0, hz=440.0):
    return (amplitude * np.sin(2 * np.pi * hz * times(seconds))).astype(np.float32)[None]


def noise(slope=0, seconds=4.0, seed=3):
    """Gaussian noise whose power falls with frequency ** slope."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(size=int(seconds * RATE_HZ)))
    spectrum[1:] /= np.arange(1, spectrum.size) ** (slope / 2)
    spectrum[0] = 0
    return level(np.fft.irfft(spectrum))


def chord(root_hz, seconds, steps=(0, 4, 7), harmonics=6):
    pitches = [root_hz * 2 ** (step / 12) for step in steps]
    return sum(
        np.sin(2 * np.pi * hz * h * times(seconds)) / h
        for hz in pitches
        for h in range(1, harmonics)
    )


def drone(seconds=4.0, hiss=0.0, seed=0):
    """A chord that never ends, under hiss."""
    held = level(chord(220.0, seconds))
    return held + hiss * noise(0, seconds, seed)[:, : held.shape[1]]


def band(seconds=4.0, bpm=120, seed=0):
    """Chords that change every two beats, a kick and a hat."""
    generator = np.random.default_rng(seed)
    beat = 60 / bpm
    audio = np.zeros(int(seconds * RATE_HZ))
    for count in range(int(seconds / beat)):
        start = int(count * beat * RATE_HZ)
        room = len(audio) - start
        kick = np.sin(2 * np.pi * 60 * times(0.2)) * np.exp(-times(0.2) * 25)
        hat = generator.normal(size=int(0.08 * RATE_HZ)) * np.exp(-times(0.08) * 60)
        off = start + int(beat / 2 * RATE_HZ)
        audio[start : start + len(kick)] += kick[:room]
        audio[off : off + len(hat)] += 0.3 * hat[: max(len(audio) - off, 0)]
        if count % 2 == 0:
            root = 110.0 * 2 ** (generator.integers(0, 24) / 12)
            held = chord(root, 2 * beat) * np.exp(-times(2 * beat) * 1.5)
            audio[start : start + len(held)] += 0.15 * held[:room]
    return level(audio)


def shuffle_frames(audio, seed=0):
    """Windows of a clip in any order, overlapped as frames of a spectrogram are."""
    generator = np.random.default_rng(seed)
    window = np.hanning(GRAIN + 1)[:-1]
    shuffled = np.zeros(audio.shape[1] + 2 * GRAIN)
    for start in range(0, audio.shape[1] + GRAIN, HOP):
        at = generator.integers(0, audio.shape[1] - GRAIN)
        shuffled[start : start + GRAIN] += window * audio[0, at : at + GRAIN]
    return level(shuffled[GRAIN:-GRAIN])
