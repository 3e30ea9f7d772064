"""Near-duplicate recordings, found by fingerprint among thousands without comparing all pairs.

A fingerprint is 32 bits every 46 ms: each bit tells if, within 186 ms, one band of the spectrum
grew more than the next. A gain and a mild equaliser cancel; a lossy codec, another sample rate or a
cut start flip few bits. After J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting
System", ISMIR 2002, with levels in decibels, wider bands and wider steps.

Fingerprints that share a few words at one offset are candidates; the share of equal bits over their
whole overlap decides. Work grows with the number of tracks, not with its square, and the result
does not depend on their order.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt32

from melodac.audio.level.convert import Resampler

RATE_HZ = 11_025
FRAME_SAMPLES = 4096
HOP_SAMPLES = 512
LAG_FRAMES = 4
NUM_BITS = 32
LOWEST_HZ = 100.0
HIGHEST_HZ = 4000.0
"""Highest frequency used: below any lossy codec's low-pass; the lowest is above what small
loudspeakers drop."""
FLOOR = 1e-2
"""Share of the mean power below which a band is ignored, since codecs fill it arbitrarily."""
QUIET_DB = 45.0
"""Level below the loudest frame, in dB, from which frames are ignored."""
QUIET_WORD = 0
"""Word of an ignored frame; 32 bits of real sound are all zero extremely rarely."""
BLOCK_SAMPLES = 1 << 16
BLOCK_FRAMES = 256

_EDGES = np.round(
    np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BITS + 2) * FRAME_SAMPLES / RATE_HZ
).astype(np.int64)
_WINDOW = np.hanning(FRAME_SAMPLES).astype(np.float32)
_PADDING = np.zeros(FRAME_SAMPLES - HOP_SAMPLES, np.float32)
"""Silence before and after the track, so that its beginning and end count too."""
_OVERLAP = FRAME_SAMPLES - HOP_SAMPLES


class FingerprintMeter:
    """Fingerprint of a track given block by block.

    The words do not depend on the blocks: all work is done on pieces of one size. Channels are
    averaged, so stereo and its mono version are one recording.
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
        """Add the next samples of the track."""
        self._incoming.add(audio[0] if self._num_channels == 1 else audio.mean(axis=0))
        for piece in self._incoming.take(BLOCK_SAMPLES, overlap=0):
            self._hear(self._resampler.add(piece[None])[0])

    def finish(self) -> UInt32[np.ndarray, " _"]:
        """Return one word per hop; empty for silence. Nothing may be added afterwards."""
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
        """Compute the words of all frames in a piece, which follow those of the last piece."""
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
    """Buffer of samples that come in pieces of any size and leave in one size."""

    def __init__(self) -> None:
        self._waiting: list[Float32[np.ndarray, " N"]] = []
        self._size = 0

    def add(self, samples: Float32[np.ndarray, " N"]) -> None:
        self._waiting.append(samples)
        self._size += len(samples)

    def take(self, size: int, *, overlap: int) -> Iterator[Float32[np.ndarray, " N"]]:
        """Yield pieces of `size` samples; each repeats the last `overlap` of the one before."""
        if self._size < size:
            return
        samples = np.concatenate(self._waiting)
        start = 0
        while len(samples) - start >= size:
            yield samples[start : start + size]
            start += size - overlap
        self._waiting, self._size = [samples[start:]], len(samples) - start

    def rest(self) -> Float32[np.ndarray, " N"]:
        """Return the samples that have not been taken."""
        return np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.float32)


Words = UInt32[np.ndarray, " _"]

MASKS = (0xFFFFFF00, 0xFFFF00FF, 0xFF00FFFF, 0x00FFFFFF)
"""Masks that leave out one byte of a word, so that flipped bits within one byte do not matter."""
KEYS_PER_TRACK = 512
"""Keys per track: those with the smallest hashes, so that two tracks choose the same ones."""
NEIGHBOURS = 8
"""Entries of one key compared with each; a key shared by more tracks still links them in a chain.
"""
NEAR_WORDS = np.arange(-16, 17, 4)
NEAR_MAX_ERROR = 0.35
"""Share of differing bits around a shared key that is still worth a full comparison. Source of the
figure: Haitsma and Kalker 2002, section 4.2, where it separates equal from unequal sound."""
OFFSETS_TRIED = 8
OFFSET_SLACK = 2
MIN_OVERLAP = 0.5
"""Share of the shorter recording that must overlap the other."""
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Fibonacci hashing; source: Knuth, The Art of Computer Programming 3, section 6.4."""


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """Pair of recordings that sound alike, by name."""

    first: str
    second: str
    similarity: float


def find_near_duplicates(
    fingerprints: Mapping[str, Words], min_similarity: float
) -> list[NearDuplicate]:
    """Find pairs of recordings with at least a given similarity, sorted.

    If many recordings are alike, not every pair is listed, but enough to link them all.

    Args:
        fingerprints: Words of each recording, by name.
        min_similarity: 0 to 1, on the scale of `measure_similarity`.
    """
    names = sorted(name for name, words in fingerprints.items() if words.size)
    all_words = [fingerprints[name] for name in names]
    found: list[NearDuplicate] = []
    for (a, b), offsets in _candidates(all_words).items():
        best = max(measure_similarity(all_words[a], all_words[b], at) for at in offsets)
        if best >= min_similarity:
            found.append(NearDuplicate(names[a], names[b], best))
    return sorted(found)


def measure_similarity(first: Words, second: Words, offset: int) -> float:
    """Measure how alike two recordings are, 0 to 1, if the second starts at word `offset`.

    It is the correlation of the signals behind the bits, estimated from the share p of differing
    bits as cos(pi p): 1 for equal sound, about 0 for unrelated sound, 0.8 at one bit in five.
    Source: the arcsine law of clipped noise, J. H. Van Vleck and D. Middleton, Proc. IEEE 54, 1966.
    It is 0 if less than half of the shorter recording overlaps.
    """
    start, stop = max(0, offset), min(len(first), offset + len(second))
    if start >= stop:
        return 0.0
    a, b = first[start:stop], second[start - offset : stop - offset]
    is_heard = (a != QUIET_WORD) & (b != QUIET_WORD)
    num_heard = int(np.count_nonzero(is_heard))
    shorter = min(np.count_nonzero(first), np.count_nonzero(second))
    if num_heard == 0 or num_heard < MIN_OVERLAP * shorter:
        return 0.0
    differing = int(np.bitwise_count(a ^ b)[is_heard].sum(dtype=np.int64))
    return max(0.0, math.cos(math.pi * differing / (NUM_BITS * num_heard)))


def _candidates(all_words: Sequence[Words]) -> dict[tuple[int, int], list[int]]:
    """Return offsets to try for each pair of tracks that share a key in similar surroundings."""
    if len(all_words) < 2:
        return {}
    keys, tracks, positions = _index(all_words)
    joined = np.concatenate(all_words)
    starts = np.cumsum([0, *(len(words) for words in all_words)])
    votes: dict[tuple[int, int], dict[int, int]] = {}
    for distance in range(1, NEIGHBOURS + 1):
        # equal keys are adjacent after sorting: comparing with the next few entries finds the pairs
        hits = np.flatnonzero(keys[distance:] == keys[:-distance])
        a, b = hits, hits + distance
        is_near = _sounds_alike(
            joined, starts, (tracks[a], positions[a]), (tracks[b], positions[b])
        )
        a, b = a[is_near], b[is_near]
        rows = np.stack([tracks[a], tracks[b], positions[a] - positions[b]], axis=1)
        unique, counts = np.unique(rows, axis=0, return_counts=True)
        for (first, second, offset), count in zip(unique.tolist(), counts.tolist(), strict=True):
            of_pair = votes.setdefault((first, second), {})
            of_pair[offset] = of_pair.get(offset, 0) + count
    return {pair: _most_voted(of_pair) for pair, of_pair in votes.items()}


def _index(
    all_words: Sequence[Words],
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Return keys, tracks and the positions of first use, sorted by key, then track."""
    chosen = [_choose_keys(words) for words in all_words]
    keys = np.concatenate([of_track for of_track, _ in chosen])
    positions = np.concatenate([at for _, at in chosen])
    tracks = np.repeat(np.arange(len(chosen)), [len(of_track) for of_track, _ in chosen])
    order = np.lexsort((tracks, keys))
    return keys[order], tracks[order], positions[order]


def _choose_keys(words: Words) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    heard = np.flatnonzero(words != QUIET_WORD)
    masked = [
        words[heard].astype(np.uint64) & mask | (i << NUM_BITS) for i, mask in enumerate(MASKS)
    ]
    keys, first_at = np.unique(np.concatenate(masked), return_index=True)
    # chosen by hash, so that two versions of a recording choose the same keys
    hashes = keys * _HASH_FACTOR
    hashes ^= hashes >> np.uint64(NUM_BITS)
    chosen = np.argsort(hashes, kind="stable")[:KEYS_PER_TRACK]
    return keys[chosen].astype(np.int64), heard[first_at[chosen] % len(heard)]


def _sounds_alike(
    joined: Words,
    starts: Int64[np.ndarray, " _"],
    first: tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]],
    second: tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]],
) -> np.ndarray:
    """Return for each shared key if the words around it differ in few bits."""
    differing = np.zeros(len(first[0]), np.int64)
    compared = np.zeros(len(first[0]), np.int64)
    for step in NEAR_WORDS:
        is_inside = np.ones(len(first[0]), bool)
        words: list[Words] = []
        for tracks, positions in (first, second):
            at = starts[tracks] + positions + step
            is_inside &= (at >= starts[tracks]) & (at < starts[tracks + 1])
            words.append(joined[np.clip(at, 0, len(joined) - 1)])
        is_inside &= (words[0] != QUIET_WORD) & (words[1] != QUIET_WORD)
        differing += np.where(is_inside, np.bitwise_count(words[0] ^ words[1]), 0)
        compared += is_inside
    return differing <= NEAR_MAX_ERROR * NUM_BITS * compared


def _most_voted(votes: Mapping[int, int]) -> list[int]:
    """Return the offsets with the most votes, and their neighbours."""
    ranked = sorted(votes, key=lambda offset: (-votes[offset], offset))[:OFFSETS_TRIED]
    slack = range(-OFFSET_SLACK, OFFSET_SLACK + 1)
    return sorted({offset + step for offset in ranked for step in slack})
