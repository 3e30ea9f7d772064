"""What a model says on a few windows: how varied, how repetitive, how widely it looks.

Generation comes in as a function: training and sampling do not know each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.tokens.batches import Batch
from melodac.tokens.delay import DelayPattern
from melodac.tokens.statistics import repeated_ngram_share
from melodac.tokens.windows import WindowTable
from melodac.training.attention_entropy import LayerAttention, watched_attention
from melodac.training.events import Metrics
from melodac.training.scoring import build_targets
from melodac.training.usage import CodeUse, PredictionUse, count_use, measure_predictions


@runtime_checkable
class GenerateCodes(Protocol):
    """Generation at T = 1 from nothing, with the same seeds at every call."""

    def __call__(
        self, model: LanguageModel, num_items: int, num_frames: int
    ) -> Int64[Tensor, "B K T"]:
        """Codes of so many clips of so many frames."""
        ...


@dataclass(frozen=True)
class CollapseMetrics:
    """What was measured on the probe windows."""

    predictions: PredictionUse
    generated: CodeUse
    """Of as many freely generated frames as the probe windows count."""
    generated_repeats: float | None
    """Share of n-grams of codebook 0 heard before in their clip; None if the clips are short."""
    truth_repeats: float | None
    """The same of the probe windows: music repeats itself too."""
    attention: tuple[LayerAttention, ...]

    def line(self) -> Metrics:
        """All of it by name, for the log."""
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
    """Windows spread evenly over a table, longest first where they differ; fewer if it has fewer.

    Args:
        windows: Those of the validation split.
        count: Windows wanted.
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
    """Look at a model, in evaluation mode; logits that are not finite are `NonFiniteError`.

    Args:
        model: The weights that are validated.
        pattern: Delay pattern of the run.
        probe: Windows of the validation split.
        generate_codes: Draws clips from the model.
        condition: Texts of the windows.
    """
    sequence, counted = build_targets(probe, pattern, next(model.parameters()).device)
    was_training = model.training
    model.eval()
    with watched_attention(model) as attention:
        logits = model(sequence, condition)
    predictions = measure_predictions(logits, sequence, counted)
    codes = generate_codes(model, *probe.counted.shape).cpu()
    model.train(was_training)
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
