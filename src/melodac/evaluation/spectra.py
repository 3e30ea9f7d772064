"""Spectra of a clip over time, and measures of their coherence: echo, change and partials.

Noise, unigram samples and shuffled frames have the spectra of sound, but their frames do not
predict later ones; in music notes are held, chords change and drums return. All measures span more
than one analysis window, so that overlapping windows never count as a held note.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import librosa
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage  # pyright: ignore[reportMissingTypeStubs]  it has none

from melodac.errors import AudioError

LEVEL_WINDOW, LEVEL_HOP = 2048, 512
"""Window and hop of `mel_levels`, in samples."""

PARTIAL_WINDOW, PARTIAL_HOP = 4096, 1024
"""Window and hop of `track_partials`, in samples: long enough to separate the notes of a chord."""

QUIETEST_DB = -80.0
"""Floor of levels, 0 dB for a full-scale sine; quieter sound is as good as silence."""

HELD_S = 0.25
"""Duration in seconds from which a partial counts as held. One window lasts 0.093 s, and peaks of
noise, which live as long as a window, drift into one another for 0.2 s at most."""

_NUM_BANDS, _LOWEST_HZ, _HIGHEST_HZ = 40, 40.0, 16_000.0
# from 70 ms, past the window of a level, to 1.5 s
_ECHO_FROM_FRAMES, _ECHO_TO_FRAMES = 6, 130
_ECHO_RANGE_DB = 50.0
_BLOCK_S, _APART_BLOCKS, _CHANGE_RANGE_DB, _CHANGE_QUANTILE = 0.25, 4, 40.0, 0.9
_PEAK_HZ = (80.0, 5_000.0)
_PEAK_ABOVE_DB, _PEAK_RANGE_DB, _NEIGHBOUR_BINS = 12.0, 55.0, 23
_SMALLEST_POWER = 1e-12


class Partials(NamedTuple):
    """Spectral peaks between 80 Hz and 5 kHz, linked from frame to frame."""

    power: Float32[np.ndarray, "_ T"]
    """Power of every bin of the spectrum, from 0 Hz on."""
    seconds: Float32[np.ndarray, "_ T"]
    """Duration of the partial that a bin belongs to; 0 where there is no peak."""

    @property
    def held_share(self) -> Float32[np.ndarray, " T"]:
        """Share of each frame's power in peaks of held partials; a pure held sine has 2/3."""
        return self._held.sum(axis=0) / np.maximum(self.power.sum(axis=0), _SMALLEST_POWER)

    @property
    def held_share_of_clip(self) -> float:
        """Share of the whole clip's power in peaks of held partials."""
        return float(self._held.sum() / max(float(self.power.sum()), _SMALLEST_POWER))

    @property
    def _held(self) -> Float32[np.ndarray, "_ T"]:
        return np.where(self.seconds >= HELD_S, self.power, 0.0)


def mel_levels(audio: Float32[np.ndarray, "C N"], *, rate_hz: int) -> Float32[np.ndarray, "_ T"]:
    """Measure the level in dB of each mel band in each window; channels are averaged in power.

    A clip shorter than a window, or with a sample that is not finite, raises `AudioError`.
    """
    filters = librosa.filters.mel(
        sr=rate_hz,
        n_fft=LEVEL_WINDOW,
        n_mels=_NUM_BANDS,
        fmin=_LOWEST_HZ,
        fmax=min(_HIGHEST_HZ, rate_hz / 2),
        norm=None,
    )
    power = filters @ _power(audio, LEVEL_WINDOW, LEVEL_HOP)
    return np.maximum(10.0 * np.log10(power + _SMALLEST_POWER), QUIETEST_DB).astype(np.float32)


def strongest_echo(levels: Float32[np.ndarray, "_ T"]) -> float:
    """Return the largest autocorrelation of the levels: how well frames predict a later frame.

    The clip's mean spectrum is subtracted, lags go from 70 ms to 1.5 s, and all bands count as one
    sum. Held notes respond at short lags, a beat at its period, independent frames at none.
    """
    audible = np.maximum(levels, levels.max() - _ECHO_RANGE_DB).astype(np.float64)
    moving = audible - audible.mean(axis=1, keepdims=True)
    num_frames = moving.shape[1]
    variance = np.square(moving).sum() / num_frames
    lags = range(_ECHO_FROM_FRAMES, min(num_frames // 2, _ECHO_TO_FRAMES))
    if variance < _SMALLEST_POWER or not lags:
        return 0.0
    found = [
        (moving[:, :-lag] * moving[:, lag:]).sum() / ((num_frames - lag) * variance) for lag in lags
    ]
    return float(max(found))


def change_db(levels: Float32[np.ndarray, "_ T"], *, rate_hz: int) -> float | None:
    """Return the movement of the spectrum in dB, or None for a clip under 1.5 s.

    Quarter seconds are averaged in power and compared with all others a second or more away, by the
    mean difference over the bands; the result is the 90 % quantile of these differences.
    """
    frames = round(_BLOCK_S * rate_hz / LEVEL_HOP)
    num_blocks = levels.shape[1] // frames
    if num_blocks <= _APART_BLOCKS + 1:
        return None
    power = 10.0 ** (levels[:, : num_blocks * frames] / 10)
    blocks = 10.0 * np.log10(power.reshape(len(levels), num_blocks, frames).mean(axis=2))
    blocks = np.maximum(blocks, blocks.max() - _CHANGE_RANGE_DB)
    first, second = np.triu_indices(num_blocks, _APART_BLOCKS)
    moved = np.abs(blocks[:, first] - blocks[:, second]).mean(axis=0)
    return float(np.quantile(moved, _CHANGE_QUANTILE))


def track_partials(audio: Float32[np.ndarray, "C N"], *, rate_hz: int) -> Partials:
    """Find spectral peaks and link each to a peak at most one bin away in the next frame.

    A peak stands out from its neighbourhood by 12 dB and is at most 55 dB below the loudest.

    Source:
        McAulay and Quatieri 1986, Speech analysis/synthesis based on a sinusoidal representation,
        section III: peaks are matched with the nearest peak of the next frame.

    A clip shorter than a window, or with a sample that is not finite, raises `AudioError`.
    """
    power = _power(audio, PARTIAL_WINDOW, PARTIAL_HOP)
    first, last = (round(hz * PARTIAL_WINDOW / rate_hz) for hz in _PEAK_HZ)
    levels = 10.0 * np.log10(power + _SMALLEST_POWER)
    faintest = max(float(levels.max()) - _PEAK_RANGE_DB, QUIETEST_DB)
    levels = levels[first - 1 : last + 1]
    around = _smooth(levels)
    is_peak = (levels > around + _PEAK_ABOVE_DB) & (levels > faintest)
    is_peak[1:-1] &= (levels[1:-1] > levels[:-2]) & (levels[1:-1] >= levels[2:])
    is_peak[[0, -1]] = False
    seconds = np.zeros(power.shape, dtype=np.float32)
    seconds[first - 1 : last + 1] = _link(is_peak) * (PARTIAL_HOP / rate_hz)
    return Partials(power, seconds)


def _smooth(levels: Float[np.ndarray, "_ T"]) -> Float[np.ndarray, "_ T"]:
    """Return the median of each bin's neighbourhood; beyond an end lies the last bin."""
    median = cast("Callable[..., np.ndarray]", ndimage.median_filter)
    # frame after frame in one line: SciPy's filter of one axis is four times as fast as that of two
    half = _NEIGHBOUR_BINS // 2
    padded = np.pad(levels.T, ((0, 0), (half, half)), mode="edge")
    return median(padded.ravel(), size=_NEIGHBOUR_BINS).reshape(padded.shape)[:, half:-half].T


def _link(is_peak: Bool[np.ndarray, "_ T"]) -> Int[np.ndarray, "_ T"]:
    """Return the length in frames of the chain that each peak belongs to."""
    # forwards: number of frames of the chain so far; backwards: its full length
    age = is_peak.astype(np.int64)
    for frame in range(1, age.shape[1]):
        age[:, frame] *= 1 + _largest_neighbour(age[:, frame - 1])
    length = age.copy()
    for frame in range(age.shape[1] - 2, -1, -1):
        # only a peak that continues a chain passes its length back
        goes_on = np.where(age[:, frame + 1] > 1, length[:, frame + 1], 0)
        is_longer = is_peak[:, frame] * _largest_neighbour(goes_on)
        length[:, frame] = np.maximum(length[:, frame], is_longer)
    return length


def _largest_neighbour(values: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
    largest = values.copy()
    largest[1:] = np.maximum(largest[1:], values[:-1])
    largest[:-1] = np.maximum(largest[:-1], values[1:])
    return largest


def _power(audio: Float32[np.ndarray, "C N"], window: int, hop: int) -> Float[np.ndarray, "_ T"]:
    if audio.shape[1] < window:
        raise AudioError(
            f"cannot analyse a clip of {audio.shape[1]} samples: needs at least {window}"
        )
    num_bad = audio.size - int(np.isfinite(audio).sum())
    if num_bad:
        raise AudioError(
            f"cannot examine a clip with samples that are not finite: got {num_bad} of "
            f"{audio.size}, allowed are none; look for the step that produced them"
        )
    shape = torch.hann_window(window)
    spectrum = torch.stft(
        torch.as_tensor(audio, dtype=torch.float32),
        window,
        hop_length=hop,
        window=shape / (shape.sum() / 2),
        center=False,
        return_complex=True,
    )
    return spectrum.abs().square().mean(dim=0).numpy(force=True)
