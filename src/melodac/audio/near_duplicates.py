"""Recordings that sound alike, found among thousands without comparing all pairs.

Fingerprints that share a few words at one distance are candidates; the share of equal bits over
their whole overlap decides. Work grows with the number of tracks, not with its square, and the
answer does not depend on their order. Any module above may import it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32

from melodac.audio.fingerprint import NUM_BITS, QUIET_WORD

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
