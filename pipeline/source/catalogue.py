"""Groups and splits of tracks, their checks, and the catalogue of imported codes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from melodac.audio.metadata.fields import TrackMetadata
from melodac.audio.metadata.filters import TagFilter
from melodac.audio.near_duplicates import NearDuplicate
from melodac.audio.split import (
    Membership,
    Placed,
    Split,
    SplitPlan,
    check_leaks,
    form_groups,
    group_names,
    split_groups,
)
from melodac.errors import TokenError
from pipeline import paths
from pipeline.params import IngestParams
from pipeline.records import Outcome, TrackRecord, write_catalogue, write_text
from pipeline.source.imported import ImportedTrack, ImportRecord
from pipeline.source.verdicts import Verdict, format_report, format_table


def list_keys(path: str, metadata: TrackMetadata, params: IngestParams) -> tuple[str, ...]:
    """List the group keys of a track; tracks that share a key must be in the same split.

    The path without extension is always a key: song.wav and song.mp3 in one folder are one song.
    """
    folder, stem = path.rpartition("/")[0], path.rpartition(".")[0]
    return (*group_names(metadata, params.group_by, folder), f"name:{stem}")


def split_tracks(
    durations_s: Mapping[str, float], groups: Mapping[str, Membership], params: IngestParams
) -> dict[str, Split]:
    """Assign a split to each track, by path; errors as in `split_groups`."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for path, duration_s in durations_s.items():
        seconds[groups[path].group] += duration_s
    plan = SplitPlan(
        validation_frac=params.validation_frac,
        test_frac=params.test_frac,
        min_validation_s=params.min_validation_s,
        seed=params.split_seed,
    )
    splits = split_groups(seconds, plan)
    return {path: splits[groups[path].group] for path in durations_s}


def check_catalogue(
    tracks: Iterable[TrackRecord],
    keys: Mapping[str, Sequence[str]],
    near_duplicates: Sequence[NearDuplicate],
) -> None:
    """Check that no group, recording or near duplicate is split apart; else raise `LeakError`."""
    check_leaks(
        [
            Placed(
                track.path, track.split, track.group, track.audio_sha256, tuple(keys[track.path])
            )
            for track in tracks
        ],
        near_duplicates,
    )


def format_groups(tracks: Iterable[TrackRecord], groups: Mapping[str, Membership]) -> str:
    """Format the CSV table `path,group,split,linked_by`."""
    rows = (
        (track.path, track.group, track.split, "; ".join(groups[track.path].linked_by))
        for track in tracks
    )
    return format_table(("path", "group", "split", "linked_by"), rows)


DECODER = "codes"
"""Value of `TrackRecord.decoder` for a track that was imported as codes, without audio."""


def catalogue_import(record: ImportRecord, params: IngestParams) -> Outcome:
    """Write the catalogue, the groups and the report of imported codes.

    Raises:
        TokenError: If the tag filter leaves no track.
    """
    tag_filter = TagFilter(params.require_tags, params.skip_tags)
    reasons = {track.path: tag_filter.reason_to_skip(_metadata(track)) for track in record.tracks}
    kept = {track.path: track for track in record.tracks if not reasons[track.path]}
    if not kept:
        raise TokenError(f"the tags leave none of {len(reasons)} imported tracks")
    keys = {path: list_keys(path, _metadata(track), params) for path, track in kept.items()}
    groups = form_groups(keys, [])
    tracks = _to_records(record, kept, groups, params)
    check_catalogue(tracks, keys, [])
    verdicts = [
        Verdict(path, "reject" if reason else "accept", reason) for path, reason in reasons.items()
    ]
    write_text(paths.INGEST_REPORT, format_report(verdicts))
    write_text(paths.INGEST_GROUPS, format_groups(tracks, groups))
    write_catalogue(paths.CATALOGUE, tracks)
    seconds: dict[str, float] = dict.fromkeys(("train", "validation", "test"), 0.0)
    for track in tracks:
        seconds[track.split] += track.duration_s
    num_groups = len({track.group for track in tracks})
    return Outcome(
        counts={"tracks seen": len(reasons), "accepted": len(tracks), "groups": num_groups},
        skipped={"tags": len(reasons) - len(tracks)} if len(reasons) > len(tracks) else {},
        metrics={
            "files_seen": len(reasons),
            "accepted": len(tracks),
            "groups": num_groups,
            "hours": round(sum(seconds.values()) / 3600, 4),
            "seconds": {split: round(total, 2) for split, total in seconds.items()},
            "imported": True,
        },
    )


def _to_records(
    record: ImportRecord,
    kept: Mapping[str, ImportedTrack],
    groups: Mapping[str, Membership],
    params: IngestParams,
) -> list[TrackRecord]:
    frame_s = record.header.hop / record.header.sample_rate_hz
    durations_s = {path: track.num_frames * frame_s for path, track in kept.items()}
    splits = split_tracks(durations_s, groups, params)
    return [
        TrackRecord(
            id=track.id,
            path=path,
            group=groups[path].group,
            split=splits[path],
            duration_s=durations_s[path],
            sample_rate_hz=record.header.sample_rate_hz,
            num_channels=1 if record.header.channels == ("mono",) else 2,
            decoder=DECODER,
            audio_sha256=track.codes_sha256,
            loudness_lufs=None,
            peak_dbfs=None,
            tags=track.tags,
            tag_sources=track.tag_sources,
            licence=track.licence,
        )
        for path, track in kept.items()
    ]


def _metadata(track: ImportedTrack) -> TrackMetadata:
    return TrackMetadata(track.group, track.licence, track.tags, track.tag_sources)
