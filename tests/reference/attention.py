"""Attention and rotary positions as the papers write them: loops, one number at a time."""

import cmath
import math

import torch


def attend(query, key, value):
    """Causal grouped-query attention; the last query step reads the last key step."""
    B, H, S, E = query.shape
    G, M = key.shape[1:3]
    result = torch.empty(B, H, S, E)
    for b in range(B):
        for h in range(H):
            g = h * G // H
            for s in range(S):
                past = range(M - S + s + 1)
                scores = [float(query[b, h, s] @ key[b, g, m]) / math.sqrt(E) for m in past]
                largest = max(scores)
                weights = [math.exp(score - largest) for score in scores]
                mean = sum(weight * value[b, g, m] for weight, m in zip(weights, past, strict=True))
                result[b, h, s] = mean / sum(weights)
    return result


def rotate(head, step, base):
    """One head of one step: channel e and its partner as a complex number, turned."""
    half = len(head) // 2
    result = [0.0] * len(head)
    for e in range(half):
        angle = step * base ** (-2 * e / len(head))
        turned = complex(head[e], head[e + half]) * cmath.exp(1j * angle)
        result[e], result[e + half] = turned.real, turned.imag
    return result


def attend_to_seen(query, key, value, seen):
    """Grouped-query attention of every step on the keys that its item sees."""
    B, H, S, E = query.shape
    G = key.shape[1]
    result = torch.empty(B, H, S, E)
    for b in range(B):
        for h in range(H):
            g = h * G // H
            for s in range(S):
                slots = [m for m, is_seen in enumerate(seen[b].tolist()) if is_seen]
                weights = [
                    math.exp(float(query[b, h, s] @ key[b, g, m]) / math.sqrt(E)) for m in slots
                ]
                mean = sum(
                    weight * value[b, g, m] for weight, m in zip(weights, slots, strict=True)
                )
                result[b, h, s] = mean / sum(weights)
    return result
