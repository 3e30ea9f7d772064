"""Unigram and bigram cost, frame by frame, as the definition reads."""

import math
from collections import Counter
from itertools import pairwise


def score(train, test, smoothing, codebook_size, codebook):
    """Mean nats of a code of `test`, given lists of tracks (lists of codes), as (unigram, bigram)."""
    codes = Counter(code for track in train for code in track)
    pairs = Counter(pair for track in train for pair in pairwise(track))
    totals = Counter(track[t] for track in train for t in range(len(track) - 1))
    kinds = Counter(before for before, _ in pairs)
    prior, discount, concentration = smoothing[codebook]

    def unigram(code):
        return (codes[code] + prior) / (codes.total() + prior * codebook_size)

    def bigram(before, code):
        kept = max(pairs[before, code] - discount, 0)
        given = (concentration + discount * kinds[before]) * unigram(code)
        return (kept + given) / (totals[before] + concentration)

    frames = [(track, t) for track in test for t in range(len(track))]
    alone = [-math.log(unigram(track[t])) for track, t in frames]
    after = [
        -math.log(bigram(track[t - 1], track[t]) if t else unigram(track[t])) for track, t in frames
    ]
    return sum(alone) / len(frames), sum(after) / len(frames)
