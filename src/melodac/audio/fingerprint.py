"""What a recording sounds like in 32 bits every 46 ms, for finding the same recording again.

Each bit says whether, within 186 ms, one band of the spectrum grew more than the next. A gain and a
mild equaliser cancel; a lossy codec, another sample rate or a cut start flip few bits. After J.
Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002, with levels in
decibels, wider bands and wider steps. Any module above may import it.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt32

from melodac.audio.resample import Resampler

RATE_HZ = 11_025
FRAME_SAMPLES = 4096
HOP_SAMPLES = 512
LAG_FRAMES = 4
NUM_BITS = 32
LOWEST_HZ = 100.0
HIGHEST_HZ = 4000.0
"""Below the low-pass filter of any lossy codec, above what small loudspeakers drop."""
FLOOR = 1e-2
"""Share of the mean power below which a band says nothing: there codecs write what they like."""
QUIET_DB = 45.0
"""Frames this far below the loudest one say nothing."""
QUIET_WORD = 0
"""Stands for such a frame; 32 bits of sound are all zero once in a blue moon."""
BLOCK_SAMPLES = 1 << 16
BLOCK_FRAMES = 256

_EDGES = np.round(
    np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BITS + 2) * FRAME_SAMPLES / RATE_HZ
).astype(np.int64)
_WINDOW = np.hanning(FRAME_SAMPLES).astype(np.float32)
_PADDING = np.zeros(FRAME_SAMPLES - HOP_SAMPLES, np.float32)
"""Silence before and after, so that how a sound begins and ends counts too."""
_OVERLAP = FRAME_SAMPLES - HOP_SAMPLES


class FingerprintMeter:
    """The fingerprint of a track given block by block.

    However the track is cut into blocks, the words are the same: all work is done on pieces of one
    size. Channels are averaged, so stereo and its mono version are one recording.
    """

    def __init__(self, rate_hz: int, num_channels: int) -> None:
        self._num_channels = num_channels
        self._resampler = Resampler(rate_hz, RATE_HZ, 1)
        self._incoming = _Pieces()
        self._sound = _Pieces()
        self._sound.add(_PADDING)
        self._previous = np.zeros((0, NUM_BITS + 1), np.float32)
        self._words: list[UInt32[np.ndarray, " _"]] = []
        self._levels: list[Float32[np.ndarray, " _"]] = []

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Take the next samples of the track."""
        self._incoming.add(audio[0] if self._num_channels == 1 else audio.mean(axis=0))
        for piece in self._incoming.take(BLOCK_SAMPLES, overlap=0):
            self._hear(self._resampler.add(piece[None])[0])

    def finish(self) -> UInt32[np.ndarray, " _"]:
        """One word a step; empty for silence. Nothing may be added afterwards."""
        self._hear(self._resampler.add(self._incoming.rest()[None])[0])
        self._hear(self._resampler.finish()[0])
        self._hear(_PADDING)
        rest = self._sound.rest()
        if len(rest) >= FRAME_SAMPLES:
            self._measure(rest)
        if not self._words:
            return np.zeros(0, np.uint32)
        levels = np.concatenate(self._levels)
        is_quiet = levels <= levels.max() * 10.0 ** (-QUIET_DB / 10.0)
        words = np.where(is_quiet, np.uint32(QUIET_WORD), np.concatenate(self._words))
        return np.zeros(0, np.uint32) if is_quiet.all() else words

    def _hear(self, sound: Float32[np.ndarray, " N"]) -> None:
        self._sound.add(sound)
        size = _OVERLAP + BLOCK_FRAMES * HOP_SAMPLES
        for piece in self._sound.take(size, overlap=_OVERLAP):
            self._measure(piece)

    def _measure(self, sound: Float32[np.ndarray, " N"]) -> None:
        """Words of all frames in a piece, which begins where the last one's next frame does."""
        frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME_SAMPLES)[::HOP_SAMPLES]
        spectrum = np.fft.rfft(frames * _WINDOW, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        sums = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
        bands = np.concatenate([self._previous, (sums / np.diff(_EDGES)).astype(np.float32)])
        self._previous = bands[-LAG_FRAMES:]
        if len(bands) > LAG_FRAMES:
            words, levels = _compare(bands[LAG_FRAMES:], bands[:-LAG_FRAMES])
            self._words.append(words)
            self._levels.append(levels)


def _compare(
    now: Float32[np.ndarray, "_ _"], before: Float32[np.ndarray, "_ _"]
) -> tuple[UInt32[np.ndarray, " _"], Float32[np.ndarray, " _"]]:
    levels = np.maximum(now.mean(axis=1), before.mean(axis=1))
    floor = np.maximum(FLOOR * levels, np.finfo(np.float32).tiny)[:, None]
    growth = np.log(now + floor) - np.log(before + floor)
    bits = growth[:, :-1] > growth[:, 1:]
    return np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32), levels


class _Pieces:
    """Samples that come in any size and leave in one."""

    def __init__(self) -> None:
        self._waiting: list[Float32[np.ndarray, " N"]] = []
        self._size = 0

    def add(self, samples: Float32[np.ndarray, " N"]) -> None:
        self._waiting.append(samples)
        self._size += len(samples)

    def take(self, size: int, *, overlap: int) -> Iterator[Float32[np.ndarray, " N"]]:
        """Pieces of `size` samples; each repeats the last `overlap` of the one before."""
        if self._size < size:
            return
        samples = np.concatenate(self._waiting)
        start = 0
        while len(samples) - start >= size:
            yield samples[start : start + size]
            start += size - overlap
        self._waiting, self._size = [samples[start:]], len(samples) - start

    def rest(self) -> Float32[np.ndarray, " N"]:
        """What has not left yet."""
        return np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.float32)
