"""Checkpoint + held-out splits -> cross-entropy per codebook, bits per second, ear proxies.

Cross-entropy uses the training loss and counts each frame once; n-gram models are the baselines.
Validation chose the checkpoint, so the test split is the one to report. A model that reads tags is
given those of each track, and is measured a second time without tags. Sampled clips are compared
with held-out music by six proxies of the ear; if that fails, they are missing, with the reason.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from melodac.errors import MelodacError
from melodac.evaluation.bootstrap import Bootstrap, Estimate
from melodac.evaluation.likelihood import Likelihood, measure_likelihood
from melodac.tokens.windows import evaluation_windows
from pipeline import paths
from pipeline.experiment.dataset import Dataset, read_dataset
from pipeline.experiment.model import Trained, load_trained
from pipeline.listening.ear import EarStudy
from pipeline.listening.ear_table import EarTable, compare_by_ear, missing_table
from pipeline.listening.instrument import build_instrument
from pipeline.logs import Advance, progress_bar
from pipeline.params import EvaluateParams, Params
from pipeline.processes.devices import set_up_torch
from pipeline.records import (
    Outcome,
    Split,
    format_csv,
    read_catalogue,
    read_json,
    read_normalized,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)
HELD_OUT: tuple[Split, ...] = ("validation", "test")
BOOTSTRAP_SEED = 0


def run(params: Params) -> Outcome:
    """Measure both held-out splits and compare sampled clips with test music."""
    trained = load_trained(set_up_torch(params.runtime))
    dataset = read_dataset(trained.layout)
    batches = sum(_num_batches(dataset, split, params.evaluate) for split in HELD_OUT)
    with progress_bar(
        total=batches * (2 if trained.reads_text else 1), unit="batch", description="evaluate"
    ) as advance:

        def measure(split: Split, *, is_told: bool = True) -> Likelihood:
            return _measure(trained, dataset, split, params, is_told=is_told, advance=advance)

        found = {split: measure(split) for split in HELD_OUT}
        untold = {
            f"{split}_nats_without_tags": round(measure(split, is_told=False).nats.value, 5)
            for split in HELD_OUT
            if trained.reads_text
        }
    baselines = read_json(paths.BASELINES)
    rows = {split: _compare(found[split], baselines[split], dataset) for split in HELD_OUT}
    ear = _hear(trained, dataset, params)
    summary = {split: _summary(likelihood) for split, likelihood in found.items()}
    write_json(
        paths.EVALUATION,
        {
            **summary,
            **untold,
            "codebooks": [row._asdict() for row in rows["validation"]],
            "ear": ear.as_records(),
            **ear.counts(),
        },
    )
    write_text(paths.CODEBOOK_TABLE, format_csv(CodebookRow._fields, rows["validation"]))
    write_text(paths.EAR_TABLE, ear.as_csv())
    return Outcome(
        counts={f"{split} frames": found[split].num_frames for split in HELD_OUT},
        metrics={
            **{f"{split}_{key}": summary[split][key] for split in HELD_OUT for key in _SHOWN},
            **untold,
            "codebooks_below_unigram": _count_below(rows["validation"], "unigram"),
            "codebooks_below_bigram": _count_below(rows["validation"], "bigram"),
            **_compare_test(rows["test"], dataset),
            **ear.counts(),
            "ear_distances": ear.distances(),
            "ear_missing": ear.reasons(),
        },
    )


def _hear(trained: Trained, dataset: Dataset, params: Params) -> EarTable:
    evaluate = params.evaluate
    try:
        instrument = build_instrument(trained, params.codec.weights, set_up_torch(params.runtime))
    except MelodacError as error:
        log.warning("the proxies of the ear are missing, there is no codec: %s", error)
        return missing_table(str(error))
    study = EarStudy(
        dataset,
        instrument,
        evaluate,
        groups={record.id: record.group for record in read_catalogue(paths.CATALOGUE)},
        # imported codes have no recording
        recorded=frozenset(row.id for row in read_normalized(paths.NORMALIZED_TABLE)),
    )
    return compare_by_ear(study, Bootstrap(evaluate.bootstrap_samples, BOOTSTRAP_SEED))


class CodebookRow(NamedTuple):
    """Cross-entropy of the model and of the n-gram baselines on one column, in nats per code."""

    codebook: str
    model: float
    unigram: float
    bigram: float


def _compare(
    likelihood: Likelihood, baselines: Mapping[str, Sequence[float]], dataset: Dataset
) -> list[CodebookRow]:
    # baselines cover every column of the store; a model reads some of them, in its own order
    positions = dataset.layout.positions(dataset.header)
    columns = zip(dataset.layout.names(), positions, likelihood.nats_per_codebook, strict=True)
    return [
        CodebookRow(
            codebook=name,
            model=round(estimate.value, 5),
            unigram=round(baselines["unigram"][position], 5),
            bigram=round(baselines["bigram"][position], 5),
        )
        for name, position, estimate in columns
    ]


def _count_below(rows: Sequence[CodebookRow], baseline: Literal["unigram", "bigram"]) -> int:
    return sum(row.model < getattr(row, baseline) for row in rows)


def _compare_test(rows: Sequence[CodebookRow], dataset: Dataset) -> dict[str, float | int]:
    """Summarise the baselines on the test split; codebook 0 is the mean over the channels."""
    firsts = [row for row, k in zip(rows, dataset.layout.codebooks, strict=True) if k == 0]
    return {
        "test_unigram_nats": _mean(row.unigram for row in rows),
        "test_codebooks_below_unigram": _count_below(rows, "unigram"),
        "num_codebooks": len(rows),
        "test_codebook0_nats": _mean(row.model for row in firsts),
        "test_codebook0_bigram_nats": _mean(row.bigram for row in firsts),
    }


def _mean(values: Iterable[float]) -> float:
    return round(fmean(values), 5)


_SHOWN = ("nats", "nats_low", "nats_high", "bits_per_second")


def _measure(
    trained: Trained,
    dataset: Dataset,
    split: Split,
    params: Params,
    *,
    is_told: bool,
    advance: Advance,
) -> Likelihood:
    evaluate = params.evaluate
    # one forward pass is one batch, and nothing else calls the model here: the hook is the count
    counting = trained.model.register_forward_hook(lambda *_: advance())
    with counting:
        return measure_likelihood(
            trained.model,
            trained.pattern,
            dataset.split(split),
            frames=dataset.index.window_frames,
            windows_per_batch=evaluate.windows_per_batch,
            frame_rate_hz=dataset.header.sample_rate_hz / dataset.header.hop,
            bootstrap=Bootstrap(evaluate.bootstrap_samples, BOOTSTRAP_SEED),
            tags=dataset.tags(split) if is_told and trained.reads_text else (),
        )


def _num_batches(dataset: Dataset, split: Split, evaluate: EvaluateParams) -> int:
    lengths = [int(length) for length in dataset.split(split).lengths]
    windows = evaluation_windows(lengths, dataset.index.window_frames)
    return -(-len(windows) // evaluate.windows_per_batch)


def _summary(likelihood: Likelihood) -> dict[str, Any]:
    return {
        **_bounds("nats", likelihood.nats),
        **_bounds("bits_per_second", likelihood.bits_per_second),
        "nats_per_codebook": [round(nats.value, 5) for nats in likelihood.nats_per_codebook],
        "tracks": likelihood.num_tracks,
        "frames": likelihood.num_frames,
    }


def _bounds(name: str, estimate: Estimate) -> dict[str, float | None]:
    named = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: None if value is None else round(value, 5) for key, value in named.items()}
