"""What of a probe is beyond its threshold, and what nothing can be concluded from.

Every judgement is a comparison: codes said with codes of the truth on the same cells, a layer's
attention with its own before training. An absolute count would only say how many cells were looked
at.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from melodac.training.collapse_probe import CollapseMetrics
from melodac.training.events import Event
from melodac.training.remedies import REMEDIES, FindingKind
from melodac.training.sections import CollapseConfig

MIN_POSITIONS = 64
"""Cells of a codebook below which nothing is said about its variety."""

MIN_TRUTH_NATS = math.log(2.0)
"""Entropy of the truth below which there is no variety to lose: that of two codes."""


class Finding(NamedTuple):
    """One number beyond its threshold."""

    kind: FindingKind
    place: str
    """Which codebook or layer."""
    value: float
    threshold: float

    @property
    def reason(self) -> str:
        """One plain sentence: what, how much, what may help, and what is known against it."""
        what, advice, caveat = REMEDIES[self.kind]
        return (
            f"{self.place}: {what} is {self.value:.3f}, the threshold is {self.threshold:g}; "
            f"{advice}; but {caveat}"
        )

    def event(self, update: int) -> Event:
        """The finding as a line of the log."""
        return Event("collapse", update, self.reason, self._asdict())


class Unjudged(NamedTuple):
    """One number that nothing can be concluded from."""

    kind: FindingKind
    place: str
    reason: str


def examine(
    metrics: CollapseMetrics, initial_attention: Sequence[float] | None, config: CollapseConfig
) -> Iterator[Finding | Unjudged]:
    """Everything found and everything that could not be judged, codebooks first, then layers.

    The likeliest codes are not judged: they are few in a sound model too. Nor are repeats, which
    are music as often as a fault.

    Args:
        metrics: What was measured.
        initial_attention: Entropy share of each layer at update 0; None if it is not known.
        config: The thresholds.
    """
    truth = metrics.predictions.truth
    for codebook, positions in enumerate(truth.positions):
        if positions < MIN_POSITIONS:
            doubt = f"only {positions} cells were looked at, {MIN_POSITIONS} are needed"
            for kind in ("usage", "generated_usage", "entropy"):
                yield Unjudged(kind, f"codebook {codebook}", doubt)
            continue
        yield from _examine_usage(metrics, codebook, config.min_usage_ratio)
        yield from _examine_entropy(metrics, codebook, config.min_entropy_ratio)
    yield from _examine_attention(metrics, initial_attention, config.max_attention_change)


def _examine_usage(
    metrics: CollapseMetrics, codebook: int, limit: float
) -> Iterator[Finding | Unjudged]:
    place = f"codebook {codebook}"
    true = metrics.predictions.truth.distinct[codebook]
    uses = {"usage": metrics.predictions.sampled, "generated_usage": metrics.generated}
    kind: FindingKind
    for kind in ("usage", "generated_usage"):
        ratio = uses[kind].distinct[codebook] / true
        if limit * true <= 1.0:
            yield Unjudged(
                kind, place, f"the truth has only {true} codes here, one alone would be enough"
            )
        elif ratio < limit:
            yield Finding(kind, place, ratio, limit)


def _examine_entropy(
    metrics: CollapseMetrics, codebook: int, limit: float
) -> Iterator[Finding | Unjudged]:
    place = f"codebook {codebook}"
    true = metrics.predictions.truth.entropy_nats[codebook]
    if true < MIN_TRUTH_NATS:
        yield Unjudged(
            "entropy", place, f"the truth has only {true:.3f} nats here, nothing is to be lost"
        )
        return
    ratio = metrics.predictions.sampled.entropy_nats[codebook] / true
    if ratio < limit:
        yield Finding("entropy", place, ratio, limit)


def _examine_attention(
    metrics: CollapseMetrics, initial: Sequence[float] | None, limit: float
) -> Iterator[Finding | Unjudged]:
    for index, layer in enumerate(metrics.attention):
        place = f"layer {index}"
        if initial is None:
            yield Unjudged("attention", place, "its attention at update 0 is not known")
            continue
        change = abs(layer.entropy_share - initial[index])
        if change > limit:
            yield Finding("attention", place, change, limit)
