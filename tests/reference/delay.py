"""Delay patterns cell by cell, as the definition reads."""

import torch

from melodac.tokens.vocabulary import BOS, PAD


def apply_delay(codes, pattern):
    B, K, T = codes.shape
    S = pattern.num_steps(T)
    sequence = torch.full((B, K, S), PAD, dtype=codes.dtype)
    for b in range(B):
        for k in range(K):
            for s in range(S):
                sequence[b, k, s] = _cell(codes[b, k], pattern, k, s)
    return sequence


def _cell(row, pattern, k, s):
    if pattern.is_flat:
        return row[s // pattern.num_codebooks] if s % pattern.num_codebooks == k else PAD
    frame = s - pattern.delays[k]
    if frame < 0:
        return BOS
    return row[frame] if frame < len(row) else PAD
