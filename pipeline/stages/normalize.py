"""Catalogue -> every track at the codec's rate and one loudness, silent ends cut, and a table.

The audio folder gets its name only when it is complete. Results of earlier runs, killed ones too,
are reused from the cache: adding a track costs the work of one track.
"""

import logging
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial

from melodac.audio.level.normalize import NormalizedFile, NormalizeJob, NormalizeTarget, Unusable
from melodac.errors import AudioError
from melodac.files import plain_errors, publish_folder, remove_folder
from pipeline import paths
from pipeline.cache.normalized_audio import Produced, open_cache, produce
from pipeline.logs import progress
from pipeline.params import NormalizeParams, Params
from pipeline.processes.workers import WorkerCrash, count_workers, map_in_workers
from pipeline.records import (
    NormalizedRecord,
    Outcome,
    TrackRecord,
    read_catalogue,
    write_normalized,
)
from pipeline.source.handover import HANDED_ON, hand_on
from pipeline.source.imported import find_import
from pipeline.source.listing import find_folder

log = logging.getLogger(__name__)

CODEC_RATE_HZ = 44_100
"""Sample rate of both codecs, bundled and 44khz."""
PARTIAL_AUDIO = paths.NORMALIZED_AUDIO.with_name(".audio.partial")
DURATION_MARGIN_S = 1.0
"""Margin over the longest duration at ingest; only a file that changed since exceeds it."""


def run(params: Params) -> Outcome:
    """Normalize every track of the catalogue; imported codes are handed on.

    Raises:
        AudioError: If no track is usable.
    """
    source = find_folder(paths.resolve_source(params.ingest.source))
    imported = find_import(source)
    if imported is not None:
        return hand_on(imported, source)
    remove_folder(HANDED_ON)
    tracks = read_catalogue(paths.CATALOGUE)
    _check_channels(tracks, params.normalize)
    with plain_errors(PARTIAL_AUDIO):
        remove_folder(PARTIAL_AUDIO)
        PARTIAL_AUDIO.mkdir(parents=True)
    produced = _produce(tracks, params)
    rows: list[NormalizedRecord] = []
    skipped: Counter[str] = Counter()
    for track, one in zip(tracks, produced, strict=True):
        if one.how == "made again":
            log.warning("%s: normalized again: what was kept of it is damaged", track.path)
        if isinstance(one.result, Unusable):
            log.warning("%s: left out: %s", track.path, one.result.reason)
            skipped[one.result.reason.partition(":")[0]] += 1
        else:
            rows.append(_to_record(track, one.result))
    if not rows:
        raise AudioError(f"no track is left of {len(tracks)}: {_count(skipped)}")
    # an old table is removed before the audio and the new one written after it: a table never
    # describes other audio than is there
    paths.NORMALIZED_TABLE.unlink(missing_ok=True)
    with plain_errors(paths.NORMALIZED_AUDIO):
        publish_folder(PARTIAL_AUDIO, paths.NORMALIZED_AUDIO)
    write_normalized(paths.NORMALIZED_TABLE, rows)
    limited = sum(row.is_gain_capped for row in rows)
    hours = sum(row.num_samples for row in rows) / CODEC_RATE_HZ / 3600
    return Outcome(
        counts={
            "tracks in": len(tracks),
            "normalized": sum(one.how != "reused" for one in produced),
            "reused": sum(one.how == "reused" for one in produced),
            "tracks out": len(rows),
            "below target": limited,
        },
        skipped=dict(sorted(skipped.items())),
        metrics={
            "tracks": len(rows),
            "skipped": skipped.total(),
            "hours": round(hours, 4),
            "below_target": limited,
            "median_gain_db": round(statistics.median(row.gain_db for row in rows), 2),
        },
    )


def _check_channels(tracks: Sequence[TrackRecord], params: NormalizeParams) -> None:
    """Refuse mixed mono and stereo with `channels: keep`: a token store has one set of channels.

    Raises:
        AudioError: If there are mono and stereo tracks.
    """
    mono = sum(track.num_channels == 1 for track in tracks)
    if params.channels == "keep" and 0 < mono < len(tracks):
        raise AudioError(
            f"normalize.channels = keep: the catalogue mixes {mono} mono and {len(tracks) - mono} "
            "stereo tracks, and tokens have one set of channels; set it to mono or stereo"
        )


def _produce(tracks: Sequence[TrackRecord], params: Params) -> list[Produced]:
    source = find_folder(paths.resolve_source(params.ingest.source)).absolute()
    target = NormalizeTarget(rate_hz=CODEC_RATE_HZ, **params.normalize.model_dump())
    longest_s = max(track.duration_s for track in tracks)
    jobs = [
        NormalizeJob(source / t.path, PARTIAL_AUDIO.absolute() / f"{t.id}.flac", t.id)
        for t in tracks
    ]
    with open_cache(paths.scratch("normalize").absolute(), target) as cache:
        produced = map_in_workers(
            partial(
                produce, cache=cache, target=target, max_duration_s=longest_s + DURATION_MARGIN_S
            ),
            jobs,
            workers=count_workers(params.runtime.workers),
        )
        watched = progress(produced, total=len(jobs), unit="track", description="normalize")
        return [_no_crash(track, one) for track, one in zip(tracks, watched, strict=True)]


def _no_crash(track: TrackRecord, produced: Produced | WorkerCrash) -> Produced:
    """Return the result unchanged.

    Raises:
        AudioError: If the track killed its worker.
    """
    if isinstance(produced, WorkerCrash):
        raise AudioError(
            f"{track.path}: normalizing it crashed its worker (out of memory, or a decoder fault); "
            "use fewer runtime.workers or remove the file"
        )
    return produced


def _to_record(track: TrackRecord, result: NormalizedFile) -> NormalizedRecord:
    gain = result.gain
    return NormalizedRecord(
        id=track.id,
        sha256=result.sha256,
        num_samples=result.num_samples,
        num_channels=result.num_channels,
        start_sample=result.start_sample,
        gain_db=gain.gain_db,
        loudness_before_lufs=gain.loudness_before_lufs,
        loudness_after_lufs=gain.loudness_after_lufs,
        peak_dbtp=gain.peak_dbtp,
        is_gain_capped=gain.is_gain_capped or gain.is_peak_limited,
    )


def _count(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
