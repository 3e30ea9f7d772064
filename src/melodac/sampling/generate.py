"""The autoregressive loop: one delayed step after another, each cell either given or sampled.

The layout fixes which cells are given (a prefix, special tokens) and which are sampled before the
first step; the loop only fills gaps. So length and given codes are right for every delay pattern.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.errors import SamplingError
from melodac.models.language_model import LanguageModel
from melodac.models.layers import evaluation_mode
from melodac.sampling.guidance import Guided, Stepper
from melodac.sampling.logits import SamplingSettings, sample_codes
from melodac.tokens.delay import DelayPattern, apply_delay, cell_frames, is_code, undo_delay
from melodac.tokens.vocabulary import BOS, CODEBOOK_SIZE, PAD


class CellPlan(NamedTuple):
    """Sequence before sampling, with a mask of the cells still to be sampled."""

    sequence: Int64[Tensor, "B K S"]
    """Given codes and specials in place; PAD in every cell to be sampled."""
    is_sampled: Bool[Tensor, "K S"]
    """Cells that sampling fills; the same for every item."""


def generate(
    model: LanguageModel | Guided,
    pattern: DelayPattern,
    *,
    num_frames: int,
    seeds: Sequence[int],
    settings: SamplingSettings,
    prefix: Int[Tensor, "B K P"] | None = None,
    ends: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Int64[Tensor, "B K T"]:
    """Continue a prefix, or nothing, to exactly `num_frames` frames; one item per seed.

    An item depends on its own seed, prefix, text and settings only, not on the rest of the batch.
    The result is on the model's device. Raises `SamplingError` if lengths, seeds, prefix, texts,
    pattern and model do not fit each other, or if a logit is not finite.

    Args:
        model: Used with its weights and on its device; dropout is off meanwhile. A model trained on
            texts runs under the null condition unless it is `Guided`.
        pattern: Delay pattern the model was trained with.
        num_frames: Frames of the result, prefix included.
        seeds: One per item; equal seeds with equal prefixes give equal items.
        settings: Temperature and truncation.
        prefix: Real frames to continue, one row per seed; fewer than `num_frames`.
        ends: True if the track ends after `num_frames` frames: later cells are PAD, as in training
            at the end of a track. False samples those cells too and drops them.
        on_step: Called after each step beyond the prefix with the steps done and their total.
    """
    alone = model.model if isinstance(model, Guided) else model
    prefix = _check_request(alone, pattern, num_frames=num_frames, seeds=seeds, prefix=prefix)
    if isinstance(model, Guided) and len(model.condition.text) != len(seeds):
        raise SamplingError(
            f"need one text per item: got {len(model.condition.text)} for {len(seeds)} seeds"
        )
    layout = lay_out(prefix, pattern, num_frames=num_frames, ends=ends)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.inference_mode(), evaluation_mode(alone):
        sequence = _fill(model, layout, settings=settings, generators=generators, on_step=on_step)
    return undo_delay(sequence, pattern)


def lay_out(
    prefix: Int[Tensor, "B K P"], pattern: DelayPattern, *, num_frames: int, ends: bool
) -> CellPlan:
    """Lay out the sequence before sampling: known cells in place, the rest marked for sampling.

    Args:
        prefix: Known frames, possibly none.
        pattern: Delay pattern, which decides the step of each frame.
        num_frames: Frames of the result.
        ends: True if cells past the last frame are PAD, False if they are sampled.
    """
    B, K, P = prefix.shape
    window = prefix.new_full((B, K, num_frames), PAD, dtype=torch.long)
    window[..., :P] = prefix
    frames = cell_frames(pattern, num_frames).T.to(prefix.device)
    # without an end, the cells after the last frame that the delay adds are sampled too
    is_sampled = (frames >= P) & (frames < num_frames) if ends else frames >= P
    return CellPlan(apply_delay(window, pattern), is_sampled)


def _fill(
    model: LanguageModel | Guided,
    layout: CellPlan,
    *,
    settings: SamplingSettings,
    generators: Sequence[torch.Generator],
    on_step: Callable[[int, int], None] | None,
) -> Int64[Tensor, "B K S"]:
    sequence, is_sampled = layout
    B, K, S = sequence.shape
    # one copy to the CPU before the loop: reading the device in it would stall every step
    is_needed = is_sampled.cpu()
    codebooks = [[k for k in range(K) if bool(is_needed[k, step])] for step in range(S)]
    first = next(step for step, needed in enumerate(codebooks) if needed)
    stepper = Stepper(model, B, capacity=S, device=sequence.device)
    if first:
        stepper.prefill(sequence[..., :first])
    before = torch.full_like(sequence[..., 0], BOS)
    for step in range(first, S):
        needed = codebooks[step]
        logits = stepper.step(sequence[..., step - 1] if step else before, needed)
        if logits is not None:
            sequence[:, needed, step] = sample_codes(
                logits,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                generators=generators,
            )
        if on_step is not None:
            on_step(step + 1 - first, S - first)
    return sequence


def _check_request(
    model: LanguageModel,
    pattern: DelayPattern,
    *,
    num_frames: int,
    seeds: Sequence[int],
    prefix: Int[Tensor, "B K P"] | None,
) -> Int[Tensor, "B K P"]:
    """Check that a request fits the model; return the prefix on its device, empty if none."""
    K = pattern.num_codebooks
    if model.config.num_codebooks != K:
        raise SamplingError(
            f"delay {pattern.name!r} has {K} codebooks, the model {model.config.num_codebooks}: "
            "use the pattern the model was trained with"
        )
    if not seeds or not all(0 <= seed < 2**63 for seed in seeds):
        raise SamplingError(
            f"need one seed per item, at least one, each from 0 to 2**63 - 1: got {list(seeds)}"
        )
    if prefix is None:
        prefix = torch.empty(len(seeds), K, 0, dtype=torch.long)
    if prefix.shape[:2] != (len(seeds), K):
        raise SamplingError(
            f"the prefix must hold {len(seeds)} items (one per seed) of {K} codebooks: got "
            f"{prefix.shape[0]} of {prefix.shape[1]}"
        )
    if num_frames <= prefix.shape[-1]:
        raise SamplingError(
            f"num_frames counts the prefix and must exceed it: got {num_frames} frames for a "
            f"prefix of {prefix.shape[-1]}"
        )
    if not bool(is_code(prefix).all()):
        raise SamplingError(
            f"a prefix holds codes from 0 to {CODEBOOK_SIZE - 1} only: got values from "
            f"{int(prefix.min())} to {int(prefix.max())}; cut it where the track ends"
        )
    return prefix.to(model.embedding.weight.device)
