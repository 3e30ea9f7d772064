"""Tracks whose codes are unlike those of the others: nearly silent, stuck, or of another kind.

A track is scored by what its codes cost under the frequencies of the whole corpus and by how many
of its frames it repeats. It is only pointed out; nothing is left out.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt16

from melodac.tokens.array import TokenArray
from melodac.tokens.statistics import count_codes
from melodac.tokens.vocabulary import CODEBOOK_SIZE

OUTLIER_Z = 3.5
"""Robust z-score beyond which a track is an outlier.

Source:
    Iglewicz and Hoaglin 1993, How to detect and handle outliers, p. 12.
"""

_NATS_SCALE = 0.05
_SHARE_SCALE = 0.02
"""Least scales of the scores, so that a corpus of equals has no outliers."""

_MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation of a normal distribution."""


class TrackMeasures(NamedTuple):
    """One value for each track of an array, in its order."""

    nats_under_unigram: Float64[np.ndarray, " B"]
    """Mean cost of a code under the frequencies of the whole array."""
    entropy_nats: Float64[np.ndarray, " B"]
    """Mean entropy of the track's own codes over its columns; at most the log of its frames."""
    repeated_share: Float64[np.ndarray, " B"]
    """Share of the frames that are equal to an earlier frame of the track in every column."""
    z_score: Float64[np.ndarray, " B"]
    """The larger of the robust z-scores of cost and repetition, with its sign."""

    def is_outlier(self) -> Bool[np.ndarray, " B"]:
        """True where a track is far from the median track."""
        return np.abs(self.z_score) > OUTLIER_Z


def measure_tracks(array: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> TrackMeasures:
    """Measure every track against all of them."""
    counts = count_codes(array, codebook_size)
    # codes that no track has are never looked up
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
    """Distance of each value from the median in robust standard deviations.

    Args:
        values: What was measured.
        least_scale: Deviation to divide by where the values differ less than that.

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
    num_distinct = len(np.unique(np.ascontiguousarray(codes).view(f"V{2 * K}")))
    return nats, max(entropy, 0.0), 1.0 - num_distinct / T
