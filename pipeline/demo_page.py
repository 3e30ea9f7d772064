"""What the listening page says about the run: facts, training curve, codebooks beside baselines."""

from collections.abc import Sequence
from typing import Any

from melodac.models.config import count_parameters
from melodac.report.clips import (
    CodebookEntropy,
    CurvePoint,
    EarDistance,
    EarRow,
    Fact,
    ListeningPage,
    Rung,
    RungKind,
)
from pipeline import paths
from pipeline.datasets import Dataset
from pipeline.generation import Instrument
from pipeline.identity import code_version
from pipeline.params import Params, hash_params
from pipeline.records import read_json
from pipeline.train_log import UPDATE, read_curve

_SAMPLED_ROWS = ("continuations", "free_runs")


def build_page(
    rungs: Sequence[Rung], dataset: Dataset, instrument: Instrument, params: Params
) -> ListeningPage:
    """The page of one run, every number read from what the stages left."""
    evaluation = read_json(paths.EVALUATION)
    return ListeningPage(
        title="melodac",
        facts=_facts(
            evaluation["validation"],
            dataset,
            instrument,
            params=params,
            has_originals=any(rung.kind is RungKind.ORIGINAL for rung in rungs),
        ),
        rungs=tuple(rungs),
        curve=tuple(
            CurvePoint(
                update=int(row[UPDATE]),
                train_nats=row["train_nats"],
                validation_nats=row["validation_nats"],
            )
            for row in read_curve(paths.HISTORY)
        ),
        codebooks=tuple(
            CodebookEntropy(
                codebook=row["codebook"],
                model_nats=row["model"],
                unigram_nats=row["unigram"],
                bigram_nats=row["bigram"],
            )
            for row in evaluation["codebooks"]
        ),
        ear=_ear_rows(evaluation["ear"]),
        ear_summary=_summarise_ear(evaluation),
    )


def _ear_rows(cells: Sequence[dict[str, Any]]) -> tuple[EarRow, ...]:
    rows = {cell["row"]: [c for c in cells if c["row"] == cell["row"]] for cell in cells}
    return tuple(
        EarRow(
            name=name,
            is_sampled=name in _SAMPLED_ROWS,
            distances=tuple(
                EarDistance(
                    proxy=cell["proxy"],
                    distance=cell["distance"],
                    low=cell["low"],
                    high=cell["high"],
                )
                for cell in row
            ),
            missing=row[0]["missing"],
        )
        for name, row in rows.items()
    )


def _summarise_ear(evaluation: dict[str, Any]) -> str:
    told: list[str] = []
    for name in _SAMPLED_ROWS:
        nearer, apart = (evaluation[f"ear_{name}_{key}"] for key in ("nearer", "apart"))
        if nearer is not None:
            told.append(
                f"{name.replace('_', ' ').capitalize()} are nearer to it than shuffled frames, "
                f"unigram samples and noise on {nearer} of 6, with the intervals apart on {apart}."
            )
    return " ".join(told)


def _condition(instrument: Instrument, params: Params) -> str:
    if not instrument.trained.reads_text:
        return "none"
    return f"tags of the track, guidance {params.demos.guidance:g}"


def _facts(
    validation: dict[str, float],
    dataset: Dataset,
    instrument: Instrument,
    *,
    params: Params,
    has_originals: bool,
) -> tuple[Fact, ...]:
    model, checkpoint = instrument.trained.model.config, instrument.trained.checkpoint
    parameters = count_parameters(model).total
    header, layout = dataset.header, dataset.layout
    seconds = int(dataset.codes.lengths.sum()) * header.hop / header.sample_rate_hz
    told = {
        "Codec": f"{header.codec}, {len(layout.columns)} x {header.codebook_size}",
        "Music": f"{len(dataset.codes.track_ids)} tracks, {seconds / 60:.1f} min",
        "Model": f"{parameters / 1e6:.2f} M, {model.num_layers} x {model.dim}",
        "Channels": ", ".join(layout.channels)
        + ("" if layout.name == "mono" else f" ({layout.name})"),
        "Delay": instrument.trained.pattern.name,
        "Condition": _condition(instrument, params),
        "Updates": f"{checkpoint.update} (best) of {checkpoint.config['train']['updates']}",
        "Validation": f"{validation['nats']:.3f} nats per code",
        "Rate": f"{validation['bits_per_second']:.0f} bits per second",
        "Code": code_version(),
        "Params": hash_params(params),
        "Data": dataset.index.fingerprint[:12],
    }
    if not has_originals:
        told["Originals"] = "none: the codes were imported, there is no recording"
    return tuple(Fact(label=label, value=value) for label, value in told.items())
