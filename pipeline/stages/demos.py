"""A ladder of audio, from the recording to the model alone, on one offline page.

Rungs: original, codec round trip, continuation of a real beginning, free run; the sampled ones at
every temperature and seed, and to the tags of the shown track where the model reads tags. At T = 0
nothing is drawn, so there is one clip whatever the seeds.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping

from melodac.report.clips import Rung, RungKind
from melodac.report.listening_page import write_listening_page
from melodac.tokens.array import TokenArray
from pipeline import paths
from pipeline.datasets import read_dataset
from pipeline.demo_clips import ClipWriter, render_free_runs, render_track, request_of
from pipeline.demo_page import build_page
from pipeline.devices import set_up_torch
from pipeline.generation import load_instrument
from pipeline.logs import progress_bar
from pipeline.params import DemosParams, Params
from pipeline.records import Outcome, TrackRecord, read_catalogue, read_normalized
from pipeline.tracking import open_tracker

log = logging.getLogger(__name__)


def run(params: Params) -> Outcome:
    """Render every clip, then the page; the folder appears only when it is whole."""
    instrument = load_instrument(params.codec.weights, set_up_torch(params.runtime))
    instrument.check_guidance(params.demos.guidance)
    dataset = read_dataset(instrument.trained.layout)
    records = {record.id: record for record in read_catalogue(paths.CATALOGUE)}
    test = dataset.split("test")
    chosen = _choose_tracks(test, records)[: params.demos.tracks]
    for track in chosen:
        record = records[test.track_ids[track]]
        instrument.check(request_of(instrument, record, params.demos))
    partial = paths.DEMOS.with_name(".demos.partial")
    shutil.rmtree(partial, ignore_errors=True)
    writer = ClipWriter(partial, instrument)
    num_sampled = _sampled_clips(params.demos)
    # imported codes have no recording
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
    shutil.rmtree(paths.DEMOS, ignore_errors=True)
    partial.rename(paths.DEMOS)
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
    """For each label the clips of some rungs that have it; one clip may have several."""
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
    """Positions of tracks, longest first; one of every group before a second of any."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for track in sorted(range(len(test.track_ids)), key=lambda track: -int(test.lengths[track])):
        group = records[test.track_ids[track]].group
        seen[group] = seen.get(group, -1) + 1
        ranked.append((seen[group], len(ranked), track))
    return [track for _, _, track in sorted(ranked)]


def _sampled_clips(demos: DemosParams) -> int:
    return sum(len(demos.seeds) if temperature > 0 else 1 for temperature in demos.temperatures)
