"""How varied codes are: distinct codes, their entropy, and the entropy of predictions.

Every number is taken over the same cells as that of the truth, so the two can be compared whatever
the number of cells; alone, a count of distinct codes says how many cells there were. Cells that are
not counted (specials, past the end) never enter.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from melodac.errors import NonFiniteError, TrainingError
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.training.seeding import build_generator

_PROBE_SEED = 0
"""Of the codes sampled from predictions: the same draws at every validation."""

_ROUNDING_NATS = 1e-3
"""What float32 may add to an entropy of 1024 codes, with room."""


class CodeUse(NamedTuple):
    """Codes of some cells, one entry per codebook."""

    positions: tuple[int, ...]
    """Cells looked at."""
    distinct: tuple[int, ...]
    """Codes that occur."""
    entropy_nats: tuple[float, ...]
    """Entropy of the codes by frequency."""


class PredictionUse(NamedTuple):
    """What a model says on given windows, beside what was true on the same cells."""

    truth: CodeUse
    likeliest: CodeUse
    """The likeliest code of each cell. It falls as soon as a model learns which codes are frequent,
    so it is shown and never judged."""
    sampled: CodeUse
    """One code of each cell, drawn at T = 1."""
    entropy_nats: tuple[float, ...]
    """Mean entropy of the predictions of each codebook."""


def count_use(codes: Int[Tensor, "B K S"], counted: Bool[Tensor, "B K S"]) -> CodeUse:
    """How varied the counted codes of each codebook are.

    Example:
        >>> codes = torch.tensor([[[5, 5, 7, 7], [1, 1, 1, 1025]]])
        >>> count_use(codes, codes < 1024)
        CodeUse(positions=(4, 3), distinct=(2, 1), entropy_nats=(0.6931471805599453, 0.0))
    """
    positions: list[int] = []
    distinct: list[int] = []
    entropy_nats: list[float] = []
    for codebook in range(codes.shape[1]):
        chosen = codes[:, codebook][counted[:, codebook]]
        counts = torch.bincount(chosen, minlength=CODEBOOK_SIZE)
        occurring = counts[counts > 0].double().cpu()
        shares = occurring / occurring.sum()
        positions.append(chosen.numel())
        distinct.append(len(occurring))
        entropy_nats.append(max(0.0, float(-(shares * shares.log()).sum())))
    return CodeUse(tuple(positions), tuple(distinct), tuple(entropy_nats))


def measure_predictions(
    logits: Float[Tensor, "B K S U"],
    sequence: Int[Tensor, "B K S"],
    counted: Bool[Tensor, "B K S"],
) -> PredictionUse:
    """How varied a model's predictions are, beside the truth of the same cells.

    Args:
        logits: Prediction of every cell.
        sequence: The delayed codes that were to be predicted.
        counted: True where the cell is a code whose prediction counts.

    Raises:
        NonFiniteError: If a logit is not finite.
    """
    if not bool(logits.isfinite().all()):
        raise NonFiniteError(
            "a logit on the probe windows is not finite, so nothing can be said of its codes: the "
            "weights have diverged; lower train.learning_rate and resume from an earlier checkpoint"
        )
    likeliest = logits.argmax(dim=-1)
    sampled = torch.empty_like(likeliest)
    entropies = torch.zeros(sequence.shape[:2], dtype=torch.float64)
    for item in range(len(logits)):  # one by one: probabilities take as much memory as logits
        log_p = logits[item].float().log_softmax(dim=-1)
        generator = build_generator(_PROBE_SEED, "usage probe", item, device=logits.device)
        drawn = torch.multinomial(log_p.exp().flatten(0, 1), 1, generator=generator)
        sampled[item] = drawn.view(sampled[item].shape)
        cells = -(log_p.exp() * log_p).sum(dim=-1)
        entropies[item] = torch.where(counted[item], cells, 0.0).sum(dim=-1).double().cpu()
    positions = counted.sum(dim=(0, 2)).cpu()
    return PredictionUse(
        truth=count_use(sequence, counted),
        likeliest=count_use(likeliest, counted),
        sampled=count_use(sampled, counted),
        entropy_nats=_check_entropies(entropies.sum(dim=0), positions),
    )


def _check_entropies(
    sums: Float[Tensor, " K"], positions: Int64[Tensor, " K"]
) -> tuple[float, ...]:
    """Mean entropies; one outside of what V codes can have is a fault of the measurement."""
    limit = math.log(CODEBOOK_SIZE)
    means = [float(mean) for mean in sums / positions.clamp(min=1)]
    for codebook, mean in enumerate(means):
        if not -_ROUNDING_NATS <= mean <= limit + _ROUNDING_NATS:
            raise TrainingError(
                f"predictions of codebook {codebook} have an entropy of {mean} nats, which "
                f"{CODEBOOK_SIZE} codes cannot have (0 to {limit:.3f}): something else was measured"
            )
    return tuple(min(max(mean, 0.0), limit) for mean in means)
