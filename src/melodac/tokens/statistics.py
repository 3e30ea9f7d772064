"""What a set of codes looks like before anything is trained on it: amount, usage, entropy, pairs.

Counts are exact and never cross a track boundary.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt32
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from melodac.config import Section
from melodac.tokens.array import TokenArray
from melodac.tokens.vocabulary import CODEBOOK_SIZE


class CodebookStatistics(Section):
    """How one codebook is used."""

    entropy_nats: NonNegativeFloat
    """Entropy of the codes by frequency; a model that knows only frequencies cannot do better."""
    num_used: PositiveInt
    """Codes that occur."""
    num_dead: NonNegativeInt
    """Codes that never occur."""
    usage: NonNegativeFloat
    """Codes that would carry the same entropy if equally frequent, as a share of all codes."""


class TokenStatistics(Section):
    """How much music a set of codes holds and how its codebooks are used."""

    num_tracks: PositiveInt
    num_frames: PositiveInt
    num_codes: PositiveInt
    """Frames times codebooks times channels."""
    duration_h: NonNegativeFloat
    codebooks: tuple[CodebookStatistics, ...]


class CodeCounts(NamedTuple):
    """Counts from which unigrams and bigrams follow exactly."""

    firsts: Int64[np.ndarray, "K U"]
    """How often a track begins with a code."""
    pairs: UInt32[np.ndarray, "K U U"]
    """How often a code (last axis) follows another one of its codebook (axis before)."""

    def codes(self) -> Int64[np.ndarray, "K U"]:
        """How often each code occurs."""
        return self.firsts + self.pairs.sum(axis=1, dtype=np.int64)


def measure_statistics(
    array: TokenArray, frame_rate_hz: float, codebook_size: int = CODEBOOK_SIZE
) -> TokenStatistics:
    """Measure amount and usage of every track of an array.

    Args:
        array: Tracks to measure, for example those of one split.
        frame_rate_hz: Frames per second: sample rate over hop.
        codebook_size: Codes of one codebook.
    """
    num_frames = int(array.lengths.sum())
    counts = count_codes(array, codebook_size)
    return TokenStatistics(
        num_tracks=len(array.track_ids),
        num_frames=num_frames,
        num_codes=num_frames * len(counts),
        duration_h=num_frames / frame_rate_hz / 3600,
        codebooks=tuple(_describe(codebook) for codebook in counts),
    )


def count_codes(array: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> Int64[np.ndarray, "K U"]:
    """How often each code of each codebook occurs."""
    K = array.values.shape[1]
    shift: Int64[np.ndarray, " K"] = np.arange(K, dtype=np.int64) * codebook_size
    counts = np.zeros(K * codebook_size, dtype=np.int64)
    for track in range(len(array.track_ids)):
        shifted: Int64[np.ndarray, "T K"] = array.codes(track) + shift
        counts += np.bincount(shifted.ravel(), minlength=len(counts))
    return counts.reshape(K, codebook_size)


def count_pairs(array: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> CodeCounts:
    """How often each code begins a track, and how often each follows each other in its codebook.

    Memory is 4 bytes a pair, 38 MB for 9 codebooks of 1024, and 16 bytes a frame meanwhile.
    """
    K = array.values.shape[1]
    firsts = np.zeros((K, codebook_size), dtype=np.int64)
    pairs = np.zeros((K, codebook_size, codebook_size), dtype=np.uint32)
    # neighbours in the joined tracks that are the end of one track and the beginning of the next
    seams = np.cumsum(array.lengths)[:-1] - 1
    for codebook in range(K):
        joined = np.concatenate([
            array.codes(track)[:, codebook] for track in range(len(array.track_ids))
        ])
        ranks = joined[:-1].astype(np.int64) * codebook_size + joined[1:]
        within = np.bincount(np.delete(ranks, seams), minlength=codebook_size**2)
        pairs[codebook] = within.reshape(codebook_size, codebook_size)
        begins = np.concatenate([joined[:1], joined[seams + 1]])
        firsts[codebook] = np.bincount(begins, minlength=codebook_size)
    return CodeCounts(firsts, pairs)


def _describe(counts: Int64[np.ndarray, " U"]) -> CodebookStatistics:
    shares = counts[counts > 0] / counts.sum()
    entropy_nats = max(float(-(shares * np.log(shares)).sum()), 0.0)
    return CodebookStatistics(
        entropy_nats=entropy_nats,
        num_used=len(shares),
        num_dead=len(counts) - len(shares),
        usage=float(np.exp(entropy_nats)) / len(counts),
    )
