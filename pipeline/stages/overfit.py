"""Overfit gate: the real trainer memorises a few windows of the data and must generate them again.

If it cannot, no later stage could work, and minutes are lost instead of days. The report is written
in any case; `overfit.action` decides whether the pipeline goes on after a failure.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Int, Int64
from torch import Tensor

from melodac.errors import TrainingError
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel
from melodac.overfit.gate import RunSpec, run_overfit
from melodac.overfit.report import OverfitReport
from melodac.sampling.generate import generate
from melodac.sampling.guidance import Guided
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import DelayPattern
from melodac.training.events import Metrics
from pipeline import paths
from pipeline.experiment.training_run import set_up_training
from pipeline.logs import progress_bar
from pipeline.params import Params
from pipeline.records import Outcome, write_json

log = logging.getLogger(__name__)


def run(params: Params) -> Outcome:
    """Memorise the windows, generate them, compare; `overfit.action` decides what a failure means.

    A `TrainingError` of the gate itself is written to the report, then raised again.

    Raises:
        TrainingError: If the gate finds a problem and `overfit.action` is stop.
    """
    action = params.overfit.action
    if action == "off":
        log.warning("overfit.action is off: nothing says whether the real run can learn at all")
        write_json(paths.OVERFIT_REPORT, {"action": action, "is_passed": None})
        return Outcome(
            counts={"windows": 0, "updates": 0}, metrics={"action": action, "is_passed": None}
        )
    try:
        report = memorise(params)
    except TrainingError as error:
        failed = {"action": action, "is_passed": False, "cause": str(error)}
        write_json(paths.OVERFIT_REPORT, failed)
        if action == "stop":
            raise
        log.warning("the overfit gate failed, and overfit.action is warn: %s", error)
        return Outcome(counts={"windows": 0, "updates": 0}, metrics=failed)
    write_json(paths.OVERFIT_REPORT, {"action": action, **describe(report)})
    for note in report.notes:
        log.info("%s", note)
    if not report.is_passed:
        failure = (
            f"{len(report.windows)} windows were not learned by heart in {report.updates} updates: "
            f"{report.cause}"
        )
        if action == "stop":
            raise TrainingError(
                f"{failure} ({paths.OVERFIT_REPORT} has every number; overfit.action warn goes on "
                "all the same)"
            )
        log.warning("overfit.action is warn, so the pipeline goes on, but %s", failure)
    return Outcome(
        counts={"windows": len(report.windows), "updates": report.updates},
        metrics={"action": action, **summarise(report)},
    )


def memorise(params: Params) -> OverfitReport:
    """Run the gate on the indexed store and return its report, passed or not."""
    model, pattern, data, _ = set_up_training(params, dropout=0.0, seed=params.overfit.seed)
    real = RunSpec(data, params.train.trainer_config())
    with progress_bar(
        total=params.overfit.updates, unit="update", description="overfit"
    ) as advance:

        def on_update(metrics: Metrics) -> None:
            advance(f"loss {float(metrics['loss']):.3f}")

        return run_overfit(
            model, pattern, real, config=params.overfit, play=play, on_update=on_update
        )


def describe(report: OverfitReport) -> dict[str, Any]:
    """Convert the whole report to JSON values."""
    return {
        **asdict(report),
        "is_passed": report.is_passed,
        "gradients": {row.module: row._asdict() for row in report.gradients},
    }


def summarise(report: OverfitReport) -> dict[str, Any]:
    """Select the metrics that are compared between experiments, and the cause of a failure."""
    runs = report.free_runs
    beaten = zip(report.nats_per_codebook, report.constant_nats_per_codebook, strict=True)
    return {
        "updates": report.updates,
        "loss": report.loss,
        "teacher_forced_accuracy": report.teacher_forced_accuracy,
        "free_run_accuracy": report.free_run_accuracy,
        "worst_codebook_accuracy": min(runs.continued_per_codebook),
        "from_nothing_accuracy": runs.from_nothing,
        **{f"accuracy_t{t:g}": sum(found) / len(found) for t, found in runs.sampled.items()},
        "least_nats_below_constant": min(constant - nats for nats, constant in beaten),
        "windows": len(report.windows),
        "prefix_frames": report.prefix_frames,
        "is_passed": report.is_passed,
        **({} if report.is_passed else {"cause": report.cause}),
    }


def play(
    model: LanguageModel,
    pattern: DelayPattern,
    *,
    num_frames: int,
    prefix: Int[Tensor, "B K P"],
    seeds: Sequence[int],
    temperature: float,
    condition: Condition | None,
) -> Int64[Tensor, "B K T"]:
    """Generate tracks that end after `num_frames` frames, without top-k or top-p truncation."""
    return generate(
        model if condition is None else Guided(model, condition),
        pattern,
        num_frames=num_frames,
        seeds=seeds,
        settings=SamplingSettings(temperature=temperature, top_k=0, top_p=1.0),
        prefix=prefix,
        ends=True,
    )
