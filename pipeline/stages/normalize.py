"""Catalogue -> every track as one channel at the codec's rate and one loudness, and a table of it.

The folder of audio appears under its name only when all of it is there.
"""

import logging
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from melodac.audio.normalize import (
    NormalizedFile,
    NormalizeJob,
    NormalizeTarget,
    Unusable,
    normalize_file,
)
from melodac.errors import AudioError, OutputError
from pipeline import paths
from pipeline.logs import progress
from pipeline.params import Params
from pipeline.records import (
    NormalizedRecord,
    Outcome,
    TrackRecord,
    read_catalogue,
    write_normalized,
)
from pipeline.workers import WorkerCrash, count_workers, map_in_workers

log = logging.getLogger(__name__)

CODEC_RATE_HZ = 44_100
"""Of both codecs."""
PARTIAL_AUDIO = paths.NORMALIZED_AUDIO.with_name(".audio.partial")
DURATION_MARGIN_S = 1.0
"""A track of the catalogue decodes to what it did at ingest; the cap only stops a changed file."""

Result = NormalizedFile | Unusable


def run(params: Params) -> Outcome:
    """Normalize every track of the catalogue."""
    tracks = read_catalogue(paths.CATALOGUE)
    _clear(PARTIAL_AUDIO)
    results = _normalize(tracks, params)
    rows: list[NormalizedRecord] = []
    skipped: Counter[str] = Counter()
    for track, result in zip(tracks, results, strict=True):
        if isinstance(result, Unusable):
            log.warning("%s: left out: %s", track.path, result.reason)
            skipped[result.reason.partition(":")[0]] += 1
        else:
            rows.append(_to_record(track, result))
    if not rows:
        raise AudioError(f"no track is left of {len(tracks)}: all are silent as one channel")
    # the table goes last and, from an earlier run, first: it never speaks of other audio
    paths.NORMALIZED_TABLE.unlink(missing_ok=True)
    _publish(PARTIAL_AUDIO, paths.NORMALIZED_AUDIO)
    write_normalized(paths.NORMALIZED_TABLE, rows)
    limited = sum(row.is_gain_capped for row in rows)
    hours = sum(row.num_samples for row in rows) / CODEC_RATE_HZ / 3600
    return Outcome(
        counts={"tracks in": len(tracks), "tracks out": len(rows), "below target": limited},
        skipped=dict(sorted(skipped.items())),
        metrics={
            "tracks": len(rows),
            "skipped": skipped.total(),
            "hours": round(hours, 4),
            "below_target": limited,
            "median_gain_db": round(statistics.median(row.gain_db for row in rows), 2),
        },
    )


def _normalize(tracks: Sequence[TrackRecord], params: Params) -> list[Result]:
    source = paths.resolve_source(params.ingest.source).absolute()
    target = NormalizeTarget(
        rate_hz=CODEC_RATE_HZ,
        loudness_lufs=params.normalize.target_lufs,
        max_gain_db=params.normalize.max_gain_db,
        peak_ceiling_dbfs=params.normalize.peak_ceiling_dbfs,
    )
    longest_s = max(track.duration_s for track in tracks)
    jobs = [
        NormalizeJob(source / t.path, PARTIAL_AUDIO.absolute() / f"{t.id}.flac", t.id)
        for t in tracks
    ]
    results = map_in_workers(
        partial(normalize_file, target=target, max_duration_s=longest_s + DURATION_MARGIN_S),
        jobs,
        workers=count_workers(params.runtime.workers),
    )
    watched = progress(results, total=len(jobs), unit="track", description="normalize")
    return [_no_crash(track, result) for track, result in zip(tracks, watched, strict=True)]


def _no_crash(track: TrackRecord, result: Result | WorkerCrash) -> Result:
    """The result itself.

    Raises:
        AudioError: If the track killed its worker.
    """
    if isinstance(result, WorkerCrash):
        raise AudioError(
            f"{track.path}: normalizing it crashed its worker (out of memory, or a decoder fault); "
            "lower ingest.max_duration_s, use fewer runtime.workers or remove the file"
        )
    return result


def _to_record(track: TrackRecord, result: NormalizedFile) -> NormalizedRecord:
    loudness = result.loudness
    return NormalizedRecord(
        id=track.id,
        num_samples=result.num_samples,
        gain_db=loudness.gain_db,
        loudness_before_lufs=loudness.loudness_before_lufs,
        loudness_after_lufs=loudness.loudness_after_lufs,
        peak_dbfs=loudness.peak_dbfs,
        is_gain_capped=loudness.is_gain_capped or loudness.is_peak_limited,
    )


def _clear(folder: Path) -> None:
    """Make an empty folder.

    Raises:
        OutputError: If the place cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error


def _publish(partial_folder: Path, folder: Path) -> None:
    """Give a finished folder its final name.

    Raises:
        OutputError: If the place cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        partial_folder.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
