"""A folder of music -> the catalogue, one row a track, and a verdict for every file seen.

Bad input is data: a file that cannot be used gets its line in report.csv and costs nothing else.
Nothing is written before everything is known, and the music itself is only ever read.
"""

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from melodac.audio.examine import DurationLimits, Examination, Rejection, examine_file
from melodac.audio.metadata.collect import collect_metadata
from melodac.audio.metadata.merge import TrackMetadata
from melodac.audio.scan import Entry, scan_folder
from melodac.audio.split import split_groups
from melodac.errors import AudioError
from pipeline import paths
from pipeline.logs import progress
from pipeline.params import IngestParams, Params
from pipeline.records import Outcome, TrackRecord, write_catalogue, write_text
from pipeline.workers import WorkerCrash, count_workers, map_in_workers

log = logging.getLogger(__name__)

REASONS_NAMED = 3
PROBLEMS_LOGGED = 10
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Verdict:
    """What became of one file."""

    path: str
    verdict: Literal["accept", "reject", "ignored"]
    reason: str = ""


def run(params: Params) -> Outcome:
    """Examine the source folder; write the catalogue and the report."""
    source = paths.resolve_source(params.ingest.source)
    entries = scan_folder(source)
    examined = _examine(source, entries, params)
    verdicts, accepted = _judge(entries, examined)
    if not accepted:
        raise AudioError(_explain_nothing(source, verdicts))
    metadata, problems = _read_metadata(source, entries)
    tracks = _catalogue(accepted, metadata, params.ingest)
    write_text(paths.INGEST_REPORT, _report(verdicts))
    write_catalogue(paths.CATALOGUE, tracks)
    return _outcome(verdicts, tracks, problems)


def _examine(
    source: Path, entries: Sequence[Entry], params: Params
) -> dict[str, Examination | Rejection]:
    """What each audio file is, by path."""
    names = [entry.path for entry in entries if entry.kind == "audio"]
    limits = DurationLimits(params.ingest.min_duration_s, params.ingest.max_duration_s)
    results = map_in_workers(
        partial(examine_file, limits=limits),
        (source.absolute() / name for name in names),
        workers=count_workers(params.runtime.workers),
    )
    watched = progress(results, total=len(names), unit="file", description="ingest")
    crash = Rejection("damaged: the decoder crashed on it")
    return {
        name: crash if isinstance(result, WorkerCrash) else result
        for name, result in zip(names, watched, strict=True)
    }


def _judge(
    entries: Sequence[Entry], examined: Mapping[str, Examination | Rejection]
) -> tuple[list[Verdict], dict[str, Examination]]:
    """The verdict on every entry, and the files accepted, both in the order of paths."""
    verdicts: list[Verdict] = []
    accepted: dict[str, Examination] = {}
    first_of_content: dict[str, str] = {}
    for entry in entries:
        result = examined.get(entry.path)
        if result is None:
            verdict = "reject" if entry.kind == "reject" else "ignored"
            verdicts.append(Verdict(entry.path, verdict, entry.reason))
        elif isinstance(result, Rejection):
            verdicts.append(Verdict(entry.path, "reject", result.reason))
        elif result.sha256 in first_of_content:
            twin = first_of_content[result.sha256]
            verdicts.append(Verdict(entry.path, "reject", f"same audio file as: {twin}"))
        else:
            first_of_content[result.sha256] = entry.path
            accepted[entry.path] = result
            verdicts.append(Verdict(entry.path, "accept"))
    return verdicts, accepted


def _read_metadata(
    source: Path, entries: Sequence[Entry]
) -> tuple[dict[str, TrackMetadata], list[str]]:
    names = [entry.path for entry in entries if entry.kind == "metadata"]
    known = {entry.path for entry in entries if entry.kind in {"audio", "reject"}}
    metadata, problems = collect_metadata(
        source, tables=names, side_cars=[], embedded={}, known_paths=known
    )
    for problem in problems[:PROBLEMS_LOGGED]:
        log.warning("%s", problem)
    if len(problems) > PROBLEMS_LOGGED:
        log.warning("and %d more problems in the metadata", len(problems) - PROBLEMS_LOGGED)
    return metadata, problems


def _catalogue(
    accepted: Mapping[str, Examination],
    metadata: Mapping[str, TrackMetadata],
    params: IngestParams,
) -> list[TrackRecord]:
    known = {path: metadata.get(path, TrackMetadata()) for path in accepted}
    # without a group of its own a track stands alone, named by its path without the extension
    groups = {path: known[path].group or path.rpartition(".")[0] for path in accepted}
    seconds: defaultdict[str, float] = defaultdict(float)
    for path, track in accepted.items():
        seconds[groups[path]] += track.duration_s
    splits = split_groups(
        seconds,
        validation_frac=params.validation_frac,
        test_frac=params.test_frac,
        seed=params.split_seed,
    )
    return [
        TrackRecord(
            id=track.track_id,
            path=path,
            group=groups[path],
            split=splits[groups[path]],
            duration_s=track.duration_s,
            sample_rate_hz=track.sample_rate_hz,
            num_channels=track.num_channels,
            loudness_lufs=track.loudness_lufs,
            peak_dbfs=track.peak_dbfs,
            tags=dict(known[path].tags),
            tag_sources=dict(known[path].sources),
            licence=known[path].licence,
        )
        for path, track in accepted.items()
    ]


def _report(verdicts: Sequence[Verdict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "verdict", "reason"))
    for verdict in verdicts:
        writer.writerow((_inert(verdict.path), verdict.verdict, verdict.reason))
    return text.getvalue()


def _inert(path: str) -> str:
    """The same path, spelled so that no spreadsheet takes it for a formula."""
    return f"./{path}" if path.startswith(FORMULA_STARTS) else path


def _explain_nothing(source: Path, verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return f"{source}: empty folder, put music into it or set ingest.source to another one"
    reasons = Counter(_category(verdict) for verdict in verdicts)
    ranked = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    named = ", ".join(f"{reason} ({count})" for reason, count in ranked[:REASONS_NAMED])
    return f"{source}: none of {len(verdicts)} files can be used: {named}"


def _category(verdict: Verdict) -> str:
    """The reason without what differs from file to file."""
    return verdict.reason.partition(":")[0].partition(" beside ")[0]


def _outcome(
    verdicts: Sequence[Verdict], tracks: Sequence[TrackRecord], problems: Sequence[str]
) -> Outcome:
    counts = Counter(verdict.verdict for verdict in verdicts)
    skipped = Counter(_category(v) for v in verdicts if v.verdict != "accept")
    seconds: dict[str, float] = dict.fromkeys(("train", "validation", "test"), 0.0)
    for track in tracks:
        seconds[track.split] += track.duration_s
    metrics = {
        "files_seen": len(verdicts),
        "accepted": counts["accept"],
        "rejected": counts["reject"],
        "ignored": counts["ignored"],
        "groups": len({track.group for track in tracks}),
        "hours": round(sum(seconds.values()) / 3600, 4),
        "seconds": {split: round(total, 2) for split, total in seconds.items()},
        "metadata_problems": len(problems),
    }
    names = ("files_seen", "accepted", "rejected", "ignored", "groups")
    return Outcome(
        counts={name.replace("_", " "): metrics[name] for name in names},
        skipped=dict(sorted(skipped.items())),
        metrics=metrics,
    )
