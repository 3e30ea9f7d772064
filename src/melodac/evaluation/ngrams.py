"""Unigram and bigram baselines: the prediction of counts alone, in the unit of the model's loss.

A model that is not better than these has learned nothing. Their smoothing is fitted on held-out
training tracks, so they are as strong as counting can be and never see what they are scored on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from melodac.tokens.array import TokenArray
from melodac.tokens.statistics import CodeCounts, count_pairs
from melodac.tokens.vocabulary import CODEBOOK_SIZE

HELD_OUT_EVERY = 5
"""Interval of held-out tracks: every fifth fits the smoothing."""

PRIORS = tuple(10.0 ** (exponent / 2) for exponent in range(6, -9, -1))
"""Candidates for the count added to every code of a unigram: 1000 down to 0.0001."""

CONCENTRATIONS = tuple(10.0 ** (exponent / 3) for exponent in range(18, -4, -1))
"""Candidates for the weight of the unigram in a bigram, in counts: 1 000 000 down to 0.1."""

DISCOUNTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Candidates for the part of each seen pair's count that is given to the unigram."""


class Smoothing(NamedTuple):
    """Parameters that turn the counts of one codebook into probabilities."""

    prior: float
    """Count added to every code of the unigram."""
    discount: float
    """Part of the count of every seen pair that is given to the unigram, 0 to 1."""
    concentration: float
    """Weight of the unigram in the bigram, in counts."""


@dataclass(frozen=True)
class NgramBaseline:
    """Baseline of counts, with its smoothing: unigram and bigram of each codebook."""

    counts: CodeCounts
    smoothing: tuple[Smoothing, ...]
    """Smoothing of each column, one per codebook and channel."""

    def unigram(self, codebook: int) -> Float64[np.ndarray, " U"]:
        """Return the probability of each code without context."""
        return _unigram(self.counts.codes()[codebook], self.smoothing[codebook].prior)

    def bigram(self, codebook: int) -> Float64[np.ndarray, "U U"]:
        """Return the probability of each code (last axis) after each other code (first axis)."""
        pairs = self.counts.pairs[codebook].astype(np.float64)
        _, discount, concentration = self.smoothing[codebook]
        return _interpolate(
            pairs,
            pairs.sum(axis=1, keepdims=True),
            (pairs > 0).sum(axis=1, keepdims=True),
            self.unigram(codebook),
            discount=discount,
            concentration=concentration,
        )


class BaselineScores(NamedTuple):
    """Mean cross-entropy of a code under each baseline, by codebook."""

    unigram_nats: Float64[np.ndarray, " K"]
    bigram_nats: Float64[np.ndarray, " K"]
    """Bigram cost, in which the first frame of a track is scored as a unigram."""


def fit_baseline(train: TokenArray, codebook_size: int = CODEBOOK_SIZE) -> NgramBaseline:
    """Count the training tracks and fit the smoothing of each codebook.

    The smoothing is the one best on held-out tracks for the counts of the others: every fifth
    track, or the last fifth of the frames of a single track. Final counts are those of all tracks.

    Source:
        Teh 2006, A hierarchical Bayesian language model based on Pitman-Yor processes: its
        predictive rule with one table for each kind of pair. A discount of 0 is the Dirichlet
        prior, a concentration of 0 is absolute discounting.
    """
    rest, held_out = (count_pairs(part, codebook_size) for part in _split(train))
    smoothing = tuple(_fit(rest, held_out, codebook) for codebook in range(len(rest.firsts)))
    # counted anew, since a single track was cut and the pair at the cut is in neither part
    return NgramBaseline(count_pairs(train, codebook_size), smoothing)


def score_baseline(baseline: NgramBaseline, array: TokenArray) -> BaselineScores:
    """Return the cross-entropy of an array, in nats per code, for each codebook."""
    K, U = baseline.counts.firsts.shape
    counts = count_pairs(array, U)
    codes = counts.codes()
    unigram_nats, bigram_nats = np.zeros(K), np.zeros(K)
    for codebook in range(K):
        unigram = -np.log(baseline.unigram(codebook))
        bigram = -np.log(baseline.bigram(codebook))
        total = codes[codebook].sum()
        begin = (counts.firsts[codebook] * unigram).sum()
        unigram_nats[codebook] = (codes[codebook] * unigram).sum() / total
        bigram_nats[codebook] = (begin + (counts.pairs[codebook] * bigram).sum()) / total
    return BaselineScores(unigram_nats, bigram_nats)


def _split(train: TokenArray) -> tuple[TokenArray, TokenArray]:
    positions = np.arange(len(train.track_ids))
    if len(positions) > 1:
        chosen = positions % HELD_OUT_EVERY == 0
        ids = np.array(train.track_ids, dtype=object)
        return train.select(list(ids[~chosen])), train.select(list(ids[chosen]))
    num_held_out = -(-train.lengths // HELD_OUT_EVERY)
    num_kept = train.lengths - num_held_out
    return (
        TokenArray(train.values, train.track_ids, train.starts, num_kept),
        TokenArray(train.values, train.track_ids, train.starts + num_kept, num_held_out),
    )


def _fit(rest: CodeCounts, held_out: CodeCounts, codebook: int) -> Smoothing:
    codes, target = rest.codes()[codebook], held_out.codes()[codebook]
    prior = min(PRIORS, key=lambda tried: _cost(_unigram(codes, tried), target))
    base = _unigram(codes, prior)
    pairs = rest.pairs[codebook]
    before, after = np.nonzero(held_out.pairs[codebook])
    weights = held_out.pairs[codebook][before, after]
    seen = pairs[before, after].astype(np.float64)
    totals = pairs.sum(axis=1, dtype=np.float64)[before]
    kinds = (pairs > 0).sum(axis=1)[before]

    def cost(discount: float, concentration: float) -> float:
        given = _interpolate(
            seen, totals, kinds, base[after], discount=discount, concentration=concentration
        )
        return _cost(given, weights)

    # For one discount the cost has a single minimum, so a walk from the previous discount's best
    # weight finds the best of all combinations in a quarter of the time. Two rounds of one
    # parameter after the other miss it by 0.01 nats.
    found: list[tuple[float, float, float]] = []
    position = 0
    for discount in DISCOUNTS:
        position, nats = _walk(
            lambda at, discount=discount: cost(discount, CONCENTRATIONS[at]),
            position,
            len(CONCENTRATIONS),
        )
        found.append((nats, discount, CONCENTRATIONS[position]))
    _, discount, concentration = min(found)
    return Smoothing(prior, discount, concentration)


def _walk(cost: Callable[[int], float], position: int, size: int) -> tuple[int, float]:
    best = cost(position)
    for step in (1, -1):
        while 0 <= position + step < size and (tried := cost(position + step)) < best:
            position, best = position + step, tried
    return position, best


def _cost(probabilities: Float64[np.ndarray, " U"], weights: Integer[np.ndarray, " U"]) -> float:
    return float(-(weights * np.log(probabilities)).sum())


def _unigram(codes: Int64[np.ndarray, " U"], prior: float) -> Float64[np.ndarray, " U"]:
    return (codes + prior) / (codes.sum() + prior * len(codes))


def _interpolate(
    pairs: Float64[np.ndarray, "..."],
    totals: Float64[np.ndarray, "..."],
    kinds: Integer[np.ndarray, "..."],
    unigram: Float64[np.ndarray, "..."],
    *,
    discount: float,
    concentration: float,
) -> Float64[np.ndarray, "..."]:
    # the mass taken from every seen pair, plus the concentration, goes to the unigram
    given = (concentration + discount * kinds) * unigram
    return (np.maximum(pairs - discount, 0.0) + given) / (totals + concentration)
