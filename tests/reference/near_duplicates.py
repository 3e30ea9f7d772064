"""Near-duplicates the slow way: every pair at every offset, bit by bit."""

import math

import numpy as np


def all_pairs(words, min_similarity):
    """The similarity of every pair that reaches it, by names."""
    names = sorted(words)
    bits = {n: np.unpackbits(words[n].view(np.uint8)).reshape(-1, 32) for n in names}
    found = {}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            similarity = best(bits[first], bits[second])
            if similarity >= min_similarity:
                found[first, second] = similarity
    return found


def best(a, b):
    need = min(len(a), len(b)) / 2
    highest = 0.0
    for offset in range(-len(b) + 1, len(a)):
        start, stop = max(0, offset), min(len(a), offset + len(b))
        if stop - start >= need:
            share = np.mean(a[start:stop] != b[start - offset : stop - offset])
            highest = max(highest, math.cos(math.pi * share))
    return highest
