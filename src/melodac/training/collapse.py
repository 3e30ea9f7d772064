"""Watches a run for a model that says less and less, and decides what follows from it.

The watch measures with every validation, on weights and windows of validation, and draws nothing
that training draws. What it does about a finding is one pure function of the params, `why_to_end`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from melodac.errors import CheckpointMismatchError, CollapseError
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.tokens.batches import Batch
from melodac.tokens.delay import DelayPattern
from melodac.training.collapse_findings import Finding, Unjudged, examine
from melodac.training.collapse_probe import CollapseMetrics, GenerateCodes, probe_model
from melodac.training.events import Metrics
from melodac.training.sections import CollapseConfig


class CollapseMonitor:
    """Measures, remembers the attention of update 0 and what was found last, and judges."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config = config
        self._initial_attention: tuple[float, ...] | None = None
        self._found: tuple[str, ...] = ()

    def measure(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        probe: Batch,
        *,
        generate_codes: GenerateCodes,
        condition: Condition | None = None,
    ) -> CollapseMetrics:
        """Look at a model, as `probe_model` does."""
        return probe_model(
            model, pattern, probe, generate_codes=generate_codes, condition=condition
        )

    def remember_start(self, metrics: CollapseMetrics) -> None:
        """Take what was measured at update 0 as what attention is compared with from now on."""
        self._initial_attention = tuple(layer.entropy_share for layer in metrics.attention)

    def judge(self, metrics: CollapseMetrics) -> tuple[Finding, ...]:
        """Everything that is beyond its threshold; `failure` speaks of the last call."""
        findings = tuple(
            check
            for check in examine(metrics, self._initial_attention, self.config)
            if isinstance(check, Finding)
        )
        self._found = tuple(finding.reason for finding in findings)
        return findings

    def unjudged(self, metrics: CollapseMetrics) -> tuple[Unjudged, ...]:
        """Everything that nothing could be concluded from, and why."""
        return tuple(
            check
            for check in examine(metrics, self._initial_attention, self.config)
            if isinstance(check, Unjudged)
        )

    def line(self, metrics: CollapseMetrics) -> Metrics:
        """What was measured, by name, with the attention of update 0 and what is not judged."""
        line = metrics.line()
        for layer, share in enumerate(self._initial_attention or ()):
            line[f"attention_start_l{layer}"] = share
        unjudged = self.unjudged(metrics)
        line["num_unjudged"] = len(unjudged)
        if unjudged:
            kind, place, reason = unjudged[0]
            line["why_unjudged"] = f"{kind} of {place}: {reason}"
        return line

    def failure(self, *, is_last: bool) -> str | None:
        """Why the run must end here, after its checkpoint; None if it may go on.

        Args:
            is_last: Whether the last update of the run is done.
        """
        return why_to_end(self.config.action, self._found, is_last=is_last)

    def refuse(self, *, is_last: bool) -> None:
        """Raise what `failure` says, if anything.

        Args:
            is_last: Whether the last update of the run is done.

        Raises:
            CollapseError: If the run must end.
        """
        failure = self.failure(is_last=is_last)
        if failure is not None:
            raise CollapseError(failure)

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, as JSON values."""
        initial = self._initial_attention
        return {
            "initial_attention": None if initial is None else list(initial),
            "found": list(self._found),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken.

        Raises:
            CheckpointMismatchError: If a key is missing.
        """
        missing = sorted({"initial_attention", "found"} - state.keys())
        if missing:
            raise CheckpointMismatchError(
                f"the checkpoint's memory of collapse lacks {', '.join(missing)}: another version "
                "wrote it, start the run anew"
            )
        initial = state["initial_attention"]
        self._initial_attention = None if initial is None else tuple(initial)
        self._found = tuple(state["found"])


def why_to_end(
    action: Literal["warn", "stop", "gate"], found: Sequence[str], *, is_last: bool
) -> str | None:
    """What a run ends with because of what was found; None if it may go on.

    Args:
        action: warn never ends a run, stop does at once, gate after the last update.
        found: Reasons of the last judgement.
        is_last: Whether the last update of the run is done.

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
