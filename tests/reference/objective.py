"""The training objective cell by cell, in double precision, after its definition."""

import math

import torch


def entropy(probabilities):
    return -sum(float(p) * math.log(float(p)) for p in probabilities if p > 0)


def objective(logits, sequence, counted, *, weights, smoothing, entropy_bonus, usage_bonus):
    """Sum over cells; what is counted, what is rewarded and what it weighs, one cell at a time."""
    B, K, S, V = logits.shape
    total = 0.0
    for k in range(K):
        for b in range(B):
            cells = [s for s in range(S) if counted[b, k, s]]
            predictions = [logits[b, k, s].double().softmax(0) for s in cells]
            for s, p in zip(cells, predictions, strict=True):
                target = torch.full((V,), smoothing / V, dtype=torch.float64)
                target[sequence[b, k, s]] += 1 - smoothing
                total += weights[k] * float(-(target * p.log()).sum())
                total -= weights[k] * entropy_bonus * entropy(p)
            if cells:
                mean = torch.stack(predictions).mean(0)
                total -= weights[k] * usage_bonus * len(cells) * entropy(mean)
    return total
