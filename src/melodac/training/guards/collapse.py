"""Detection of output collapse, that is of falling variety of a model's codes, and its consequence.

The monitor measures at every validation, with validation weights and windows, and uses none of
training's random numbers. Every judgement is a comparison: generated codes with true codes of the
same cells, a layer's attention with its own before training. The consequence of a finding is one
pure function of the params, `why_to_end`. The remedies' doses come from reported runs: starting
points, not proven values.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from melodac.errors import CheckpointMismatchError, CollapseError
from melodac.training.config import CollapseConfig
from melodac.training.events import Event, Metrics
from melodac.training.guards.variety import CollapseMetrics

FindingKind = Literal["usage", "generated_usage", "entropy", "attention"]


class Remedy(NamedTuple):
    """Parts of the sentence that describes a finding."""

    what: str
    """Name of the measured number."""
    advice: str
    caveat: str


REMEDIES = MappingProxyType[FindingKind, Remedy]({
    "usage": Remedy(
        "distinct codes sampled from the predictions, beside those of the truth on the same cells,",
        "halve train.learning_rate; then try train.objective.usage_bonus 0.06 and "
        "train.corruption.token_noise 0.08",
        "in one earlier system neither a lower rate nor a longer warm-up, entropy or noise helped, "
        "as its rate was near 0 by mistake: first see that learning_rate in the log is as planned",
    ),
    "generated_usage": Remedy(
        "distinct codes of generated clips, beside those of as many frames of the truth,",
        "if usage is fine, predictions are sound and only reading its own codes fails: sample at "
        "T = 1, never the likeliest code, and try train.corruption.token_noise 0.08, then "
        "own_codes up to 0.1 with a slow rise",
        "in one earlier system reading 1.5 % of its own codes made the collapse: it is switched "
        "off as soon as anything is found",
    ),
    "entropy": Remedy(
        "entropy of the codes sampled from the predictions, beside that of the truth on the same "
        "cells,",
        "halve train.learning_rate; then try train.objective.entropy_bonus 0.1, gone after a "
        "quarter of the updates, or label_smoothing 0.05",
        "in one earlier system a bonus of 0.02 to 0.04 changed nothing, and it was over before the "
        "warm-up was, as it counted micro-batches",
    ),
    "attention": Remedy(
        "change of the attention entropy since update 0, as a share of its maximum,",
        "see attention_logit of the layer: if it grows without end, halve train.learning_rate or "
        "double train.warmup_updates; if it stands and the loss falls, the layer has learned to "
        "look at one place: raise train.collapse.max_attention_change",
        "in one earlier system eight runs with other rates and batches did not help, as the scale "
        "of attention was wrong, which is audited here before update 1",
    ),
})


MIN_POSITIONS = 64
"""Cells of a codebook below which its variety is not judged."""

MIN_TRUTH_NATS = math.log(2.0)
"""Entropy of the true codes below which there is no variety to lose: that of two codes."""


class CollapseFinding(NamedTuple):
    """Measured number beyond its threshold."""

    kind: FindingKind
    place: str
    """Codebook or layer of the number."""
    value: float
    threshold: float

    @property
    def reason(self) -> str:
        """Sentence with the number, its value, what may help, and what speaks against that."""
        what, advice, caveat = REMEDIES[self.kind]
        return (
            f"{self.place}: {what} is {self.value:.3f}, the threshold is {self.threshold:g}; "
            f"{advice}; but {caveat}"
        )

    def event(self, update: int) -> Event:
        """Return the finding as an event for the log."""
        return Event("collapse", update, self.reason, self._asdict())


class Unjudged(NamedTuple):
    """Measured number from which nothing can be concluded."""

    kind: FindingKind
    place: str
    reason: str


class CollapseReport(NamedTuple):
    """Result of one judgement."""

    findings: tuple[CollapseFinding, ...]
    unjudged: tuple[Unjudged, ...]
    line: Metrics
    """Measurements by name, the attention of update 0, and the numbers that are not judged."""


def examine(
    metrics: CollapseMetrics, initial_attention: Sequence[float] | None, config: CollapseConfig
) -> Iterator[CollapseFinding | Unjudged]:
    """Yield every finding and every number not judged, codebooks first, then layers.

    The likeliest codes are not judged: they are few in a sound model too. Neither are repeats,
    which are as often music as a fault.

    Args:
        metrics: Measurements at this update.
        initial_attention: Entropy share of each layer at update 0; None if unknown.
        config: Thresholds.
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
) -> Iterator[CollapseFinding | Unjudged]:
    place = f"codebook {codebook}"
    true = metrics.predictions.truth.distinct[codebook]
    uses = {"usage": metrics.predictions.sampled, "generated_usage": metrics.generated}
    kind: FindingKind
    for kind in ("usage", "generated_usage"):
        ratio = uses[kind].distinct[codebook] / true
        # a single code already meets such a threshold, so the test could never fail
        if limit * true <= 1.0:
            yield Unjudged(
                kind, place, f"the truth has only {true} codes here, one alone would be enough"
            )
        elif ratio < limit:
            yield CollapseFinding(kind, place, ratio, limit)


def _examine_entropy(
    metrics: CollapseMetrics, codebook: int, limit: float
) -> Iterator[CollapseFinding | Unjudged]:
    place = f"codebook {codebook}"
    true = metrics.predictions.truth.entropy_nats[codebook]
    if true < MIN_TRUTH_NATS:
        yield Unjudged(
            "entropy", place, f"the truth has only {true:.3f} nats here, nothing is to be lost"
        )
        return
    ratio = metrics.predictions.sampled.entropy_nats[codebook] / true
    if ratio < limit:
        yield CollapseFinding("entropy", place, ratio, limit)


def _examine_attention(
    metrics: CollapseMetrics, initial: Sequence[float] | None, limit: float
) -> Iterator[CollapseFinding | Unjudged]:
    for index, layer in enumerate(metrics.attention):
        place = f"layer {index}"
        if initial is None:
            yield Unjudged("attention", place, "its attention at update 0 is not known")
            continue
        change = abs(layer.entropy_share - initial[index])
        if change > limit:
            yield CollapseFinding("attention", place, change, limit)


class CollapseMonitor:
    """Monitor of output collapse, with the attention of update 0 and the last findings."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self._initial_attention: tuple[float, ...] | None = None
        self._found: tuple[str, ...] = ()

    def remember_start(self, metrics: CollapseMetrics) -> None:
        """Keep the attention of update 0, with which later attention is compared."""
        self._initial_attention = tuple(layer.entropy_share for layer in metrics.attention)

    def judge(self, metrics: CollapseMetrics) -> CollapseReport:
        """Compare the measurements with their thresholds; `failure` reports on the last call."""
        checks = list(examine(metrics, self._initial_attention, self.config))
        findings = tuple(check for check in checks if isinstance(check, CollapseFinding))
        unjudged = tuple(check for check in checks if isinstance(check, Unjudged))
        self._found = tuple(finding.reason for finding in findings)
        line = metrics.line()
        for layer, share in enumerate(self._initial_attention or ()):
            line[f"attention_start_l{layer}"] = share
        line["num_unjudged"] = len(unjudged)
        if unjudged:
            kind, place, reason = unjudged[0]
            line["why_unjudged"] = f"{kind} of {place}: {reason}"
        return CollapseReport(findings, unjudged, line)

    def failure(self, *, is_last: bool) -> str | None:
        """Return the reason why the run must end after this checkpoint; None if it may continue.

        Args:
            is_last: True if the last update of the run is done.
        """
        return why_to_end(self.config.action, self._found, is_last=is_last)

    def refuse(self, *, is_last: bool) -> None:
        """Raise `CollapseError` if `failure` returns a reason.

        Args:
            is_last: True if the last update of the run is done.

        Raises:
            CollapseError: If the run must end.
        """
        failure = self.failure(is_last=is_last)
        if failure is not None:
            raise CollapseError(failure)

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON values."""
        initial = self._initial_attention
        return {
            "initial_attention": None if initial is None else list(initial),
            "found": list(self._found),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned.

        Raises:
            CheckpointMismatchError: If a key is missing.
        """
        missing = sorted({"initial_attention", "found"} - state.keys())
        if missing:
            raise CheckpointMismatchError(
                f"the collapse state of the checkpoint lacks {', '.join(missing)}: another version "
                "wrote it, start the run anew"
            )
        initial = state["initial_attention"]
        self._initial_attention = None if initial is None else tuple(initial)
        self._found = tuple(state["found"])


def why_to_end(
    action: Literal["warn", "stop", "gate"], found: Sequence[str], *, is_last: bool
) -> str | None:
    """Return the reason with which findings end a run; None if it may continue.

    Args:
        action: warn never ends a run, stop ends it at once, gate after the last update.
        found: Reasons of the last judgement.
        is_last: True if the last update of the run is done.

    Example:
        >>> why_to_end("stop", ["codebook 0: few codes"], is_last=False)
        'the model has collapsed in 1 place, train.collapse.action is stop: codebook 0: few codes'
        >>> why_to_end("gate", ["codebook 0: few codes"], is_last=False)
    """
    ends = action == "stop" or (action == "gate" and is_last)
    if not found or not ends:
        return None
    places = f"{len(found)} place{'s' if len(found) > 1 else ''}"
    return f"the model has collapsed in {places}, train.collapse.action is {action}: {found[0]}"
