"""Recordings that sound alike, found by fingerprint among thousands without comparing all pairs.

A fingerprint is 32 bits every 46 ms: each bit says whether, within 186 ms, one band of the spectrum
grew more than the next. A gain and a mild equaliser cancel; a lossy codec, another sample rate or a
cut start flip few bits. After J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting
System", ISMIR 2002, with levels in decibels, wider bands and wider steps.

Fingerprints that share a few words at one distance are candidates; the share of equal bits over
their whole overlap decides. Work grows with the number of tracks, not with its square, and the
answer does not depend on their order.
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


Words = UInt32[np.ndarray, " _"]

MASKS = (0xFFFFFF00, 0xFFFF00FF, 0xFF00FFFF, 0x00FFFFFF)
"""A key is a word with one byte left out, so that flipped bits within one byte do no harm."""
KEYS_PER_TRACK = 512
"""The smallest hashes of a track, so that two tracks choose the same keys."""
NEIGHBOURS = 8
"""Entries of one key compared with each; a key many tracks share still links them in a chain."""
NEAR_WORDS = np.arange(-16, 17, 4)
NEAR_MAX_ERROR = 0.35
"""Share of differing bits around a shared key that is still worth a full comparison. Source of the
figure: Haitsma and Kalker 2002, section 4.2, where it separates equal from unequal sound."""
OFFSETS_TRIED = 8
OFFSET_SLACK = 2
MIN_OVERLAP = 0.5
"""Share of the shorter recording that must be heard in the other."""
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Fibonacci hashing; source: Knuth, The Art of Computer Programming 3, section 6.4."""


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """Two recordings that sound alike, by name."""

    first: str
    second: str
    similarity: float


def find_near_duplicates(
    fingerprints: Mapping[str, Words], min_similarity: float
) -> list[NearDuplicate]:
    """Pairs of recordings at least so alike, sorted.

    Where many recordings are alike, not every pair is listed, but enough to link them all.

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
    """How alike two recordings are if the second starts `offset` words into the first, 0 to 1.

    It is the correlation of what the bits were made from, estimated from the share p of bits that
    differ as cos(pi p): 1 for equal sound, about 0 for unrelated sound, 0.8 at one bit in five.
    Source: the arcsine law of clipped noise, J. H. Van Vleck and D. Middleton, Proc. IEEE 54, 1966.
    0 as well if less than half of the shorter one overlaps.
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
    """Offsets worth trying, for each pair of tracks that share a key in like surroundings."""
    if len(all_words) < 2:
        return {}
    keys, tracks, positions = _index(all_words)
    joined = np.concatenate(all_words)
    starts = np.cumsum([0, *(len(words) for words in all_words)])
    votes: dict[tuple[int, int], dict[int, int]] = {}
    for distance in range(1, NEIGHBOURS + 1):
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
    """Keys, the track and the position each is first heard at, sorted by key, then track."""
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
    """For each shared key, whether the words around it differ in few bits."""
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
    """The offsets most keys agree on, and their neighbours."""
    ranked = sorted(votes, key=lambda offset: (-votes[offset], offset))[:OFFSETS_TRIED]
    slack = range(-OFFSET_SLACK, OFFSET_SLACK + 1)
    return sorted({offset + step for offset in ranked for step in slack})
