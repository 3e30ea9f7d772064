"""Checkpoint + test tracks -> clips on one offline listening page.

Rungs, from the recording to the model alone: original, codec round trip, continuation of a real
prefix, free run. The last two are sampled at every temperature and seed, conditioned on the track's
tags where the model reads tags. At T = 0 nothing is drawn, so there is one clip whatever the seeds.
The page also shows facts about the run, the training curve, and the cross-entropy of each codebook
against its baselines.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from melodac.files import publish_folder, remove_folder
from melodac.models.config import count_parameters
from melodac.report.listening_page import write_listening_page
from melodac.report.page_content import (
    CodebookEntropy,
    CurvePoint,
    EarDistance,
    EarRow,
    Fact,
    ListeningPage,
    Rung,
    RungKind,
)
from melodac.tokens.array import TokenArray
from pipeline import paths
from pipeline.experiment.dataset import Dataset, read_dataset
from pipeline.experiment.train_log import UPDATE, read_curve
from pipeline.identity import code_version
from pipeline.listening.demo_clips import ClipWriter, render_free_runs, render_track, request_of
from pipeline.listening.instrument import Instrument, load_instrument
from pipeline.logs import progress_bar
from pipeline.params import DemosParams, Params, hash_params
from pipeline.processes.devices import set_up_torch
from pipeline.records import Outcome, TrackRecord, read_catalogue, read_json, read_normalized
from pipeline.watch.tracking import open_tracker

_SAMPLED_ROWS = ("continuations", "free_runs")


def build_page(
    rungs: Sequence[Rung], dataset: Dataset, instrument: Instrument, params: Params
) -> ListeningPage:
    """Build the content of the page; every number is read from the outputs of earlier stages."""
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
                f"unigram samples and noise on {nearer} of 6, by more than chance on {apart}."
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


log = logging.getLogger(__name__)


def run(params: Params) -> Outcome:
    """Write every clip, then the page; the folder gets its name only when it is complete."""
    instrument = load_instrument(params.codec.weights, set_up_torch(params.runtime))
    instrument.check_guidance(params.demos.guidance)
    dataset = read_dataset(instrument.trained.layout)
    records = {record.id: record for record in read_catalogue(paths.CATALOGUE)}
    test = dataset.split("test")
    chosen = _choose_tracks(test, records)[: params.demos.tracks]
    # refuse what the checkpoint cannot do before minutes of sampling
    for track in chosen:
        record = records[test.track_ids[track]]
        instrument.check(request_of(instrument, record, params.demos))
    partial = paths.DEMOS.with_name(".demos.partial")
    remove_folder(partial)
    writer = ClipWriter(partial, instrument)
    num_sampled = _sampled_clips(params.demos)
    # tracks of imported codes have no recording
    recorded = {row.id for row in read_normalized(paths.NORMALIZED_TABLE)}
    ids = [test.track_ids[track] for track in chosen]
    free: list[TrackRecord | None] = [None]
    if instrument.trained.reads_text:
        free = [records[name] for name in ids]
    sampled = (len(ids) + len(free)) * num_sampled
    total = len(ids) + sampled + len(recorded.intersection(ids))
    with (
        open_tracker(params, job="demos") as tracker,
        progress_bar(total=total, unit="clip", description="demos") as advance,
    ):
        writer.tracker, writer.on_clip = tracker, advance
        for track, name in zip(chosen, ids, strict=True):
            render_track(
                writer,
                records[name],
                test.codes(track),
                params.demos,
                has_original=name in recorded,
            )
        for record in free:
            render_free_runs(writer, params.demos, record)
    if not recorded.intersection(ids):
        log.warning("no recordings of the demo tracks: the codes were imported")
    rungs = [Rung(kind=kind, clips=tuple(clips)) for kind, clips in writer.clips.items() if clips]
    write_listening_page(partial / "index.html", build_page(rungs, dataset, instrument, params))
    publish_folder(partial, paths.DEMOS)
    clips = [clip for rung in rungs for clip in rung.clips]
    log.info("listen: %s", (paths.DEMOS / "index.html").resolve())
    return Outcome(
        counts={"tracks": len(chosen), "clips": len(clips)},
        metrics={
            "clips": len(clips),
            "labels": _count_labels(rungs, RungKind),
            "sampled_labels": _count_labels(rungs, (RungKind.CONTINUATION, RungKind.FREE_RUN)),
        },
    )


def _count_labels(rungs: Iterable[Rung], kinds: Iterable[RungKind]) -> dict[str, int]:
    """Count the clips with each detector label on some rungs; one clip may have several labels."""
    chosen = set(kinds)
    counts = Counter(
        label
        for rung in rungs
        if rung.kind in chosen
        for clip in rung.clips
        for label in clip.verdicts
    )
    return dict(sorted(counts.items()))


def _choose_tracks(test: TokenArray, records: Mapping[str, TrackRecord]) -> list[int]:
    """Rank track positions, longest first, one of every group before a second of any."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for track in sorted(range(len(test.track_ids)), key=lambda track: -int(test.lengths[track])):
        group = records[test.track_ids[track]].group
        seen[group] = seen.get(group, -1) + 1
        ranked.append((seen[group], len(ranked), track))
    return [track for _, _, track in sorted(ranked)]


def _sampled_clips(demos: DemosParams) -> int:
    return sum(len(demos.seeds) if temperature > 0 else 1 for temperature in demos.temperatures)
