"""The gate: the real trainer memorises a few windows of the real data and runs them back freely.

If it cannot, nothing downstream could work, and minutes are lost instead of days.
"""

from dataclasses import asdict

from jaxtyping import Int, Int64
from torch import Tensor

from melodac.errors import TrainingError
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.settings import SamplingSettings
from melodac.tokens.delay import DelayPattern
from melodac.training.loop import Metrics
from melodac.training.overfit import cut_windows, run_overfit
from pipeline import paths
from pipeline.datasets import read_dataset
from pipeline.devices import set_up_torch
from pipeline.experiment import build_model, build_train_pattern
from pipeline.logs import progress_bar
from pipeline.params import Params
from pipeline.records import Outcome, write_json

GREEDY = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0)


def run(params: Params) -> Outcome:
    """Memorise, run back, compare.

    Raises:
        TrainingError: If too few cells come back equal.
    """
    device = set_up_torch(params.runtime)
    dataset = read_dataset(params.train.layout)
    pattern = build_train_pattern(params.train, dataset)
    windows = cut_windows(dataset.split("train"), params.overfit)
    model = build_model(params.train, pattern, dropout=0.0, seed=params.overfit.seed).to(device)
    with progress_bar(
        total=params.overfit.updates, unit="update", description="overfit"
    ) as advance:

        def on_update(metrics: Metrics) -> None:
            advance(f"loss {metrics['loss']:.3f}")

        report = run_overfit(
            model,
            pattern,
            windows,
            config=params.overfit,
            free_run=_run_freely,
            on_update=on_update,
        )
    if not report.is_passed:
        raise TrainingError(
            f"the model could not run {params.overfit.windows} memorised windows back: "
            f"{report.free_run_accuracy:.1%} of the cells are right after {report.updates} updates "
            f"at loss {report.loss:.3f}, {params.overfit.min_accuracy:.1%} are asked for; "
            "if the loss is still falling raise overfit.updates, else model or data are at fault"
        )
    found = asdict(report)
    write_json(paths.OVERFIT_REPORT, found)
    per_codebook = found.pop("free_run_accuracy_per_codebook")
    return Outcome(
        counts={"windows": params.overfit.windows, "updates": report.updates},
        metrics={**found, "worst_codebook_accuracy": min(per_codebook)},
    )


def _run_freely(
    model: LanguageModel,
    pattern: DelayPattern,
    *,
    num_frames: int,
    prefix: Int[Tensor, "B K P"],
) -> Int64[Tensor, "B K T"]:
    return generate(
        model,
        pattern,
        num_frames=num_frames,
        seeds=range(len(prefix)),
        settings=GREEDY,
        prefix=prefix,
        ends=True,
    )
