"""Statistics of a set of codes before training, and of the tracks that differ from the rest.

Counts are exact and never cross a track boundary. A track is scored by the cost of its codes under
the frequencies of the whole corpus and by the share of its frames that repeat: nearly silent, stuck
or of another kind. Outliers are only reported; nothing is left out. Repeats are found in codes, not
in audio: autocorrelation calls every held note a loop.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, UInt16, UInt32
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from melodac.config import Section
from melodac.tokens.array import TokenArray
from melodac.tokens.vocabulary import CODEBOOK_SIZE

NGRAM_FRAMES = 8
"""Frames of an n-gram; eight frames of 1024 codes do not recur by chance."""


def repeated_ngram_share(codes: Int[Tensor, "C K T"]) -> float | None:
    """Return the share of n-grams of codebook 0 that already occurred earlier in the clip.

    Example:
        >>> import torch
        >>> loop = torch.tensor([1, 2, 3, 4]).repeat(25)
        >>> round(repeated_ngram_share(loop[None, None]), 2)
        0.96

    Args:
        codes: Codes of one clip; a stereo n-gram counts as repeated if both channels repeat.

    Returns:
        The share, or None with fewer than two n-grams.
    """
    num_ngrams = codes.shape[2] - NGRAM_FRAMES + 1
    if num_ngrams < 2:
        return None
    ngrams = codes[:, 0].unfold(1, NGRAM_FRAMES, 1).transpose(0, 1).flatten(start_dim=1)
    distinct = {ngram.tobytes() for ngram in ngrams.numpy(force=True)}
    return 1.0 - len(distinct) / num_ngrams


class CodebookStatistics(Section):
    """Usage of one codebook."""

    entropy_nats: NonNegativeFloat
    """Entropy of the code frequencies; a model that knows only frequencies cannot do better."""
    num_used: PositiveInt
    """Number of codes that occur."""
    num_dead: NonNegativeInt
    """Number of codes that never occur."""
    usage: NonNegativeFloat
    """Exponential of the entropy, as a share of all codes: the effective share in use."""


class TokenStatistics(Section):
    """Amount of music in a set of codes, and usage of its codebooks."""

    num_tracks: PositiveInt
    num_frames: PositiveInt
    num_codes: PositiveInt
    """Frames times codebooks times channels."""
    duration_h: NonNegativeFloat
    codebooks: tuple[CodebookStatistics, ...]


class CodeCounts(NamedTuple):
    """Counts that determine unigrams and bigrams exactly."""

    firsts: Int64[np.ndarray, "K U"]
    """Number of tracks that begin with each code."""
    pairs: UInt32[np.ndarray, "K U U"]
    """Number of times a code (last axis) follows another one of its codebook (axis before)."""

    def codes(self) -> Int64[np.ndarray, "K U"]:
        """Return the number of occurrences of each code."""
        return self.firsts + self.pairs.sum(axis=1, dtype=np.int64)


def measure_statistics(
    array: TokenArray, frame_rate_hz: float, codebook_size: int = CODEBOOK_SIZE
) -> TokenStatistics:
    """Measure amount and usage over all tracks of an array.

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
    """Count the occurrences of each code of each codebook."""
    K = array.values.shape[1]
    shift: Int64[np.ndarray, " K"] = np.arange(K, dtype=np.int64) * codebook_size
    counts = np.zeros(K * codebook_size, dtype=np.int64)
    for track in range(len(array.track_ids)):
        shifted: Int64[np.ndarray, "T K"] = array.codes(track) + shift
        counts += np.bincount(shifted.ravel(), minlength=len(counts))
    return counts.reshape(K, codebook_size)


def count_pairs(array: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> CodeCounts:
    """Count track beginnings by code, and pairs of successive codes of a codebook.

    The counts take 4 bytes a pair, 38 MB for 9 codebooks of 1024, plus 16 bytes a frame meanwhile.
    """
    K = array.values.shape[1]
    firsts = np.zeros((K, codebook_size), dtype=np.int64)
    pairs = np.zeros((K, codebook_size, codebook_size), dtype=np.uint32)
    # in the joined tracks, the pair at each seam is the end of one track and the start of the next
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


OUTLIER_Z = 3.5
"""Robust z-score beyond which a track is an outlier.

Source:
    Iglewicz and Hoaglin 1993, How to detect and handle outliers, p. 12.
"""

_NATS_SCALE = 0.05
_SHARE_SCALE = 0.02
"""Least scales of the z-scores, so that a corpus of equal tracks has no outliers."""

_MAD_TO_DEVIATION = 1.4826
"""Ratio of standard deviation to median absolute deviation, for a normal distribution."""


class TrackMeasures(NamedTuple):
    """Measures of every track of an array, in its order."""

    nats_under_unigram: Float64[np.ndarray, " B"]
    """Mean cross-entropy of a track's codes under the frequencies of the whole array."""
    entropy_nats: Float64[np.ndarray, " B"]
    """Mean entropy of the track's own codes over its columns; at most the log of its frames."""
    repeated_share: Float64[np.ndarray, " B"]
    """Share of frames that equal an earlier frame of the track in every column."""
    z_score: Float64[np.ndarray, " B"]
    """Robust z-score of cost or repetition, whichever is larger in absolute value."""

    def is_outlier(self) -> Bool[np.ndarray, " B"]:
        """Return True where a track is far from the median track."""
        return np.abs(self.z_score) > OUTLIER_Z


def measure_tracks(array: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> TrackMeasures:
    """Measure every track against all tracks of the array."""
    counts = count_codes(array, codebook_size)
    # codes that no track has are never looked up, so their count may be anything above 0
    costs = -np.log(np.maximum(counts, 1) / counts.sum(axis=1, keepdims=True))
    nats, entropies, repeated = (
        np.array(column, dtype=np.float64)
        for column in zip(
            *(_measure(array.codes(track), costs) for track in range(len(array.track_ids))),
            strict=True,
        )
    )
    scores = np.stack([robust_z(nats, _NATS_SCALE), robust_z(repeated, _SHARE_SCALE)])
    largest = np.abs(scores).argmax(axis=0)
    return TrackMeasures(nats, entropies, repeated, scores[largest, np.arange(len(nats))])


def robust_z(values: Float64[np.ndarray, " B"], least_scale: float) -> Float64[np.ndarray, " B"]:
    """Return the distance of each value from the median, in robust standard deviations.

    Args:
        values: Measured values.
        least_scale: Lower bound of the deviation to divide by.

    Example:
        >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0]), 0.1).round(2).tolist()
        [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    distances = values - np.median(values)
    scale = _MAD_TO_DEVIATION * float(np.median(np.abs(distances)))
    return distances / max(scale, least_scale)


def _measure(
    codes: UInt16[np.ndarray, "T K"], costs: Float64[np.ndarray, "K U"]
) -> tuple[float, float, float]:
    T, K = codes.shape
    columns: Int64[np.ndarray, " K"] = np.arange(K, dtype=np.int64)
    nats = float(costs[columns, codes].mean())
    shifted: Int64[np.ndarray, "T K"] = codes + columns * costs.shape[1]
    counts: Int64[np.ndarray, " U"] = np.bincount(shifted.ravel(), minlength=costs.size)
    shares: Float64[np.ndarray, " U"] = counts[counts > 0] / T
    entropy = float(-(shares * np.log(shares)).sum()) / K
    # a row of K codes as one opaque item of 2 K bytes: unique then compares whole frames
    num_distinct = len(np.unique(np.ascontiguousarray(codes).view(f"V{2 * K}")))
    return nats, max(entropy, 0.0), 1.0 - num_distinct / T
