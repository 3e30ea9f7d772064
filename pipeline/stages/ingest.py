"""A folder of music -> the catalogue, one row per track, and a verdict on every file seen.

A file that cannot be used gets its line in report.csv and does not stop the stage. Nothing is
written before every file is examined, and the music folder is only read.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from melodac.audio.examine import DurationLimits, Examination, Rejection
from melodac.audio.metadata.collect import collect_metadata
from melodac.audio.metadata.fields import (
    UNKNOWN_LICENCE,
    LicenceTotal,
    TrackMetadata,
    summarize_licences,
)
from melodac.audio.metadata.filters import TagFilter
from melodac.audio.near_duplicates import NearDuplicate, find_near_duplicates
from melodac.audio.scan import Entry, scan_folder
from melodac.audio.split import Membership, form_groups
from melodac.errors import AudioError
from pipeline import paths
from pipeline.cache.examinations import ExaminationCache, Examined, examine
from pipeline.logs import progress
from pipeline.params import IngestParams, Params
from pipeline.processes.workers import (
    WorkerFailure,
    WorkerOutOfMemory,
    WorkerTimeout,
    count_workers,
    map_in_workers,
)
from pipeline.records import Outcome, TrackRecord, write_catalogue, write_text
from pipeline.source.catalogue import (
    catalogue_import,
    check_catalogue,
    format_groups,
    list_keys,
    split_tracks,
)
from pipeline.source.imported import find_import
from pipeline.source.listing import check_unchanged, find_folder
from pipeline.source.verdicts import Verdict, explain_nothing, format_report, judge

log = logging.getLogger(__name__)

PROBLEMS_LOGGED = 10


def run(params: Params) -> Outcome:
    """Examine the source folder; write the catalogue, the groups and the report.

    Raises:
        AudioError: If no file can be used.
    """
    given = paths.resolve_source(params.ingest.source)
    source = find_folder(given)
    imported = find_import(source)
    if imported is not None:
        return catalogue_import(imported, params.ingest)
    tag_filter = TagFilter(params.ingest.require_tags, params.ingest.skip_tags)
    entries = scan_folder(source)
    check_unchanged(given, entries)
    examined = _examine(source, entries, params)
    metadata, problems = _read_metadata(source, entries, examined)
    verdicts = judge(
        entries,
        examined,
        lambda path: tag_filter.reason_to_skip(metadata.get(path, TrackMetadata())),
    )
    accepted = _accepted(verdicts, examined)
    if not accepted:
        raise AudioError(explain_nothing(source, verdicts))
    known = {path: metadata.get(path, TrackMetadata()) for path in accepted}
    keys = {path: list_keys(path, known[path], params.ingest) for path in accepted}
    near_duplicates = _find_near_duplicates(accepted, params.ingest)
    groups = form_groups(keys, near_duplicates)
    tracks = _catalogue(accepted, known, groups, params.ingest)
    check_catalogue(tracks, keys, near_duplicates)
    write_text(paths.INGEST_REPORT, format_report(verdicts))
    write_text(paths.INGEST_GROUPS, format_groups(tracks, groups))
    write_catalogue(paths.CATALOGUE, tracks)
    return _outcome(verdicts, tracks, problems=len(problems), near_duplicates=near_duplicates)


def _examine(
    source: Path, entries: Sequence[Entry], params: Params
) -> dict[str, Examination | Rejection]:
    """Examine each audio file in worker processes; results by path."""
    names = [entry.path for entry in entries if entry.kind == "audio"]
    limits = DurationLimits(params.ingest.min_duration_s, params.ingest.max_duration_s)
    cache = ExaminationCache.of(paths.scratch("ingest").absolute(), limits)
    results = map_in_workers(
        partial(examine, cache=cache),
        (source.absolute() / name for name in names),
        workers=count_workers(params.runtime.workers),
        timeout_s=params.ingest.file_timeout_s,
        memory_mb=params.ingest.file_memory_mb,
    )
    watched = progress(results, total=len(names), unit="file", description="ingest")
    examined: dict[str, Examination | Rejection] = {}
    num_reused = 0
    for name, result in zip(names, watched, strict=True):
        if isinstance(result, Examined):
            examined[name] = result.result
            num_reused += result.is_reused
        else:
            examined[name] = _explain_failure(result, params.ingest)
    log.info("%d of %d audio files were known from an earlier run", num_reused, len(names))
    cache.remove_old()
    return examined


def _explain_failure(failure: WorkerFailure, params: IngestParams) -> Rejection:
    if isinstance(failure, WorkerTimeout):
        limit = f"{params.file_timeout_s:g} s (ingest.file_timeout_s)"
        return Rejection(f"too slow: not decoded within {limit}")
    if isinstance(failure, WorkerOutOfMemory):
        limit = f"{params.file_memory_mb} MB to decode (ingest.file_memory_mb)"
        return Rejection(f"too large: needs more than {limit}")
    return Rejection("damaged: the decoder crashed on it")


def _read_metadata(
    source: Path, entries: Sequence[Entry], examined: Mapping[str, Examination | Rejection]
) -> tuple[dict[str, TrackMetadata], list[str]]:
    metadata, problems = collect_metadata(
        source,
        tables=[entry.path for entry in entries if entry.kind == "metadata"],
        side_cars=[(entry.path, entry.beside) for entry in entries if entry.kind == "side-car"],
        embedded={
            path: result.embedded
            for path, result in examined.items()
            if isinstance(result, Examination)
        },
        known_paths={entry.path for entry in entries if entry.kind in {"audio", "reject"}},
    )
    for problem in problems[:PROBLEMS_LOGGED]:
        log.warning("%s", problem)
    if len(problems) > PROBLEMS_LOGGED:
        log.warning("and %d more problems in the metadata", len(problems) - PROBLEMS_LOGGED)
    return metadata, problems


def _accepted(
    verdicts: Sequence[Verdict], examined: Mapping[str, Examination | Rejection]
) -> dict[str, Examination]:
    paths_accepted = {verdict.path for verdict in verdicts if verdict.verdict == "accept"}
    return {
        path: result
        for path, result in examined.items()
        if path in paths_accepted and isinstance(result, Examination)
    }


def _find_near_duplicates(
    accepted: Mapping[str, Examination], params: IngestParams
) -> list[NearDuplicate]:
    if params.near_duplicate_similarity == 0.0:
        return []
    fingerprints = {path: track.words for path, track in accepted.items()}
    return find_near_duplicates(fingerprints, params.near_duplicate_similarity)


def _catalogue(
    accepted: Mapping[str, Examination],
    metadata: Mapping[str, TrackMetadata],
    groups: Mapping[str, Membership],
    params: IngestParams,
) -> list[TrackRecord]:
    durations_s = {path: track.duration_s for path, track in accepted.items()}
    splits = split_tracks(durations_s, groups, params)
    return [
        TrackRecord(
            id=track.track_id,
            path=path,
            group=groups[path].group,
            split=splits[path],
            duration_s=track.duration_s,
            sample_rate_hz=track.sample_rate_hz,
            num_channels=track.num_channels,
            decoder=track.decoder,
            audio_sha256=track.audio_sha256,
            loudness_lufs=track.loudness_lufs,
            peak_dbfs=track.peak_dbfs,
            tags=dict(metadata[path].tags),
            tag_sources=dict(metadata[path].sources),
            licence=metadata[path].licence,
        )
        for path, track in accepted.items()
    ]


def _outcome(
    verdicts: Sequence[Verdict],
    tracks: Sequence[TrackRecord],
    *,
    problems: int,
    near_duplicates: Sequence[NearDuplicate],
) -> Outcome:
    counts = Counter(verdict.verdict for verdict in verdicts)
    skipped = Counter(verdict.category for verdict in verdicts if verdict.verdict != "accept")
    seconds: dict[str, float] = dict.fromkeys(("train", "validation", "test"), 0.0)
    for track in tracks:
        seconds[track.split] += track.duration_s
    licences = summarize_licences((track.licence, track.duration_s) for track in tracks)
    _warn_of_unknown(licences.get(UNKNOWN_LICENCE))
    metrics = {
        "files_seen": len(verdicts),
        "accepted": counts["accept"],
        "rejected": counts["reject"],
        "ignored": counts["ignored"],
        "groups": len({track.group for track in tracks}),
        "near_duplicates": len({n for pair in near_duplicates for n in (pair.first, pair.second)}),
        "hours": round(sum(seconds.values()) / 3600, 4),
        "seconds": {split: round(total, 2) for split, total in seconds.items()},
        "licences": {
            name: {"tracks": total.tracks, "seconds": round(total.seconds, 2)}
            for name, total in licences.items()
        },
        "metadata_problems": problems,
    }
    names = ("files_seen", "accepted", "rejected", "ignored", "groups", "near_duplicates")
    return Outcome(
        counts={name.replace("_", " "): metrics[name] for name in names},
        skipped=dict(sorted(skipped.items())),
        metrics=metrics,
    )


def _warn_of_unknown(unknown: LicenceTotal | None) -> None:
    if unknown is not None:
        log.warning(
            "licence unknown: %d tracks, %.1f min; make sure you may train on them",
            unknown.tracks,
            unknown.seconds / 60,
        )
