"""Generation without a cache: every step runs the whole sequence through the model again.

Cells are visited one by one, and where each frame stands is written out per pattern.
"""

import torch

from melodac.sampling.logits import sample_codes
from melodac.tokens.vocabulary import BOS, PAD


def frame_of(pattern, step, codebook):
    """Frame of a cell: negative before the start, None in a hole of a flat pattern."""
    if not pattern.is_flat:
        return step - pattern.delays[codebook]
    return step // pattern.num_codebooks if step % pattern.num_codebooks == codebook else None


def given_cell(frame, prefix, codebook):
    """What a cell holds before sampling."""
    if frame is None or frame >= prefix.shape[-1]:
        return PAD
    return BOS if frame < 0 else prefix[:, codebook, frame]


def generate(model, pattern, *, num_frames, seeds, settings, prefix, ends):
    """Codes of `num_frames` frames, prefix included."""
    B, K, P = prefix.shape
    S = pattern.num_steps(num_frames)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    codes = torch.zeros(B, K, num_frames, dtype=torch.long)
    sequence = torch.full((B, K, S), PAD)
    stop = num_frames if ends else S
    for step in range(S):
        frames = {k: frame_of(pattern, step, k) for k in range(K)}
        for k, frame in frames.items():
            sequence[:, k, step] = given_cell(frame, prefix, k)
        sampled = [k for k, frame in frames.items() if frame is not None and P <= frame < stop]
        if sampled:
            sequence[:, sampled, step] = sample_codes(
                model(sequence)[:, sampled, step],
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                generators=generators,
            )
        for k, frame in frames.items():
            if frame is not None and 0 <= frame < num_frames:
                codes[:, k, frame] = sequence[:, k, step]
    return codes
