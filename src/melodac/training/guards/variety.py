"""Variety of a model's output on a few windows: distinct codes, entropy, repeats, attention.

Generation is passed in as a function, since `training` and `sampling` do not import each other.
Every number is taken over the same cells as for the true codes, so the two can be compared; a count
of distinct codes alone depends on the number of cells. Cells that are not counted (specials, past
the end) never enter.

Attention entropy is a share of its maximum: a layer that attends to all visible keys alike has 1,
one that attends to a single key has 0, however many keys there are. It starts near 1 and differs
between layers, so it is compared with its own value before training.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from melodac.errors import NonFiniteError, TrainingError
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.models.layers import evaluation_mode
from melodac.tokens.batches import Batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.statistics import repeated_ngram_share
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.tokens.windows import WindowTable
from melodac.training.events import Metrics
from melodac.training.guards.model_probe import AttentionWatch
from melodac.training.loss import build_targets
from melodac.training.seeding import build_generator


class LayerAttention(NamedTuple):
    """Self-attention of one layer on given windows."""

    entropy_share: float
    """Entropy over ln(visible keys), averaged over heads and steps that see at least two keys."""
    max_logit: float
    """Largest logit of a visible key."""


@contextmanager
def watched_attention() -> Generator[list[LayerAttention]]:
    """Measure every causal self-attention that runs in a with-block, in the order of the layers."""
    seen: list[LayerAttention] = []

    def measure(call: dict[str, Any]) -> None:
        if call.get("is_causal"):  # cross-attention and the text encoder see everything at once
            seen.append(_measure(call["query"], call["key"]))

    with AttentionWatch(measure):
        yield seen


def _measure(query: Float[Tensor, "B H S E"], key: Float[Tensor, "B G S E"]) -> LayerAttention:
    _, H, S, E = query.shape
    hidden = torch.ones(S, S, dtype=torch.bool, device=query.device).triu(1)
    # from 2 on: the first step sees a single key, and ln(1) = 0 would be the divisor
    num_visible = torch.arange(2, S + 1, device=query.device)
    shares: list[float] = []
    largest: list[float] = []
    for one_query, one_key in zip(query, key, strict=True):  # item by item: only H S S logits
        keys = one_key.repeat_interleave(H // key.shape[1], dim=0)
        logits = one_query.float() @ keys.float().transpose(-1, -2) / math.sqrt(E)
        logits = logits.masked_fill(hidden, -torch.inf)
        weights = logits.softmax(dim=-1)
        entropies = -torch.xlogy(weights, weights).sum(dim=-1)
        shares.append(float((entropies[:, 1:] / num_visible.log()).double().mean()))
        largest.append(float(logits.max()))
    return LayerAttention(sum(shares) / len(shares), max(largest))


_PROBE_SEED = 0
"""Seed of the codes sampled from predictions; equal draws at every validation."""

_ROUNDING_NATS = 1e-3
"""Largest error of float32 in an entropy of 1024 codes, with a margin."""


class CodeUse(NamedTuple):
    """Variety of the codes of some cells, one entry per codebook."""

    positions: tuple[int, ...]
    """Number of cells."""
    distinct: tuple[int, ...]
    """Number of distinct codes."""
    entropy_nats: tuple[float, ...]
    """Entropy of the code frequencies."""


class PredictionUse(NamedTuple):
    """Variety of a model's predictions on given windows, and of the true codes there."""

    truth: CodeUse
    likeliest: CodeUse
    """Likeliest code of each cell. Its variety falls as soon as a model learns which codes are
    frequent, so it is reported and never judged."""
    sampled: CodeUse
    """Code of each cell drawn at T = 1."""
    entropy_nats: tuple[float, ...]
    """Mean entropy of the predictions of each codebook."""


def count_use(codes: Int[Tensor, "B K S"], counted: Bool[Tensor, "B K S"]) -> CodeUse:
    """Measure the variety of the counted codes of each codebook.

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
    """Measure the variety of a model's predictions, and of the true codes of the same cells.

    Args:
        logits: Prediction of every cell.
        sequence: Delayed codes that were to be predicted.
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
    """Return mean entropies; one that V codes cannot have is a fault of the measurement."""
    limit = math.log(CODEBOOK_SIZE)
    means = [float(mean) for mean in sums / positions.clamp(min=1)]
    for codebook, mean in enumerate(means):
        if not -_ROUNDING_NATS <= mean <= limit + _ROUNDING_NATS:
            raise TrainingError(
                f"predictions of codebook {codebook} have an entropy of {mean} nats, which "
                f"{CODEBOOK_SIZE} codes cannot have (0 to {limit:.3f}): something else was measured"
            )
    return tuple(min(max(mean, 0.0), limit) for mean in means)


@runtime_checkable
class GenerateCodes(Protocol):
    """Generation at T = 1 without a prefix, with the same seeds at every call."""

    def __call__(
        self, model: LanguageModel, num_items: int, num_frames: int
    ) -> Int64[Tensor, "B K T"]:
        """Generate clips of a given number of frames."""
        ...


@dataclass(frozen=True)
class CollapseMetrics:
    """Measurements on the probe windows."""

    predictions: PredictionUse
    generated: CodeUse
    """Variety of freely generated frames, as many as the probe windows count."""
    generated_repeats: float | None
    """Share of n-grams of codebook 0 heard before in their clip; None if the clips are short."""
    truth_repeats: float | None
    """Share of repeated n-grams in the probe windows themselves: music repeats too."""
    attention: tuple[LayerAttention, ...]

    def line(self) -> Metrics:
        """Return all measurements by name, for the log."""
        said = self.predictions
        named: dict[str, Sequence[float]] = {
            "usage_k": said.sampled.distinct,
            "target_usage_k": said.truth.distinct,
            "likeliest_usage_k": said.likeliest.distinct,
            "generated_usage_k": self.generated.distinct,
            "entropy_k": said.entropy_nats,
            "sampled_entropy_k": said.sampled.entropy_nats,
            "target_entropy_k": said.truth.entropy_nats,
            "attention_entropy_l": [layer.entropy_share for layer in self.attention],
            "attention_logit_l": [layer.max_logit for layer in self.attention],
        }
        line: Metrics = {"usage_positions": min(said.truth.positions)}
        for name, values in named.items():
            line |= {f"{name}{index}": value for index, value in enumerate(values)}
        repeats = {
            "generated_repeats": self.generated_repeats,
            "target_repeats": self.truth_repeats,
        }
        return line | {name: share for name, share in repeats.items() if share is not None}


def choose_probe(windows: WindowTable, count: int) -> WindowTable:
    """Choose windows spread evenly over a table, the longest ones if there are enough.

    Args:
        windows: Windows of the validation split.
        count: Number of windows; fewer if the table has fewer.
    """
    longest = np.flatnonzero(windows.num_frames == windows.num_frames.max())
    candidates = longest if len(longest) >= count else np.arange(len(windows))
    picked = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).astype(np.int64)
    return windows.take(candidates[picked])


@torch.inference_mode()
def probe_model(
    model: LanguageModel,
    pattern: DelayPattern,
    probe: Batch,
    *,
    generate_codes: GenerateCodes,
    condition: Condition | None = None,
) -> CollapseMetrics:
    """Measure a model in evaluation mode; logits that are not finite raise `NonFiniteError`.

    Args:
        model: Model with the validated weights.
        pattern: Delay pattern of the run.
        probe: Windows of the validation split.
        generate_codes: Function that generates clips from the model.
        condition: Texts of the windows.
    """
    sequence, counted = build_targets(probe, pattern, next(model.parameters()).device)
    with evaluation_mode(model):
        with watched_attention() as attention:
            logits = model(sequence, condition)
        predictions = measure_predictions(logits, sequence, counted)
        codes = generate_codes(model, *probe.counted.shape).cpu()
    frames = probe.counted
    return CollapseMetrics(
        predictions=predictions,
        generated=count_use(codes, frames.unsqueeze(1).expand(codes.shape)),
        generated_repeats=_mean_repeats(codes, frames),
        truth_repeats=_mean_repeats(probe.codes, frames),
        attention=tuple(attention),
    )


def _mean_repeats(codes: Int[Tensor, "B K W"], frames: Bool[Tensor, "B T"]) -> float | None:
    shares = [
        repeated_ngram_share(clip[:, : int(counted.sum())].unsqueeze(0))
        for clip, counted in zip(codes, frames, strict=True)
    ]
    measured = [share for share in shares if share is not None]
    return sum(measured) / len(measured) if measured else None
