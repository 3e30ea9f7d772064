"""What ingest does with imported codes: filter by tags, group, split, write the catalogue."""

from collections import defaultdict
from collections.abc import Mapping

from melodac.audio.groups import Membership, form_groups
from melodac.audio.leaks import Placed, check_leaks
from melodac.audio.metadata.filters import TagFilter
from melodac.audio.metadata.groups import group_names
from melodac.audio.metadata.merge import TrackMetadata
from melodac.audio.split import SplitPlan, split_groups
from melodac.errors import TokenError
from pipeline import paths
from pipeline.imported import ImportedTrack, ImportRecord
from pipeline.params import IngestParams
from pipeline.records import Outcome, TrackRecord, write_catalogue, write_text
from pipeline.verdicts import Verdict, format_report, format_table

DECODER = "codes"
"""Of a track that came without sound."""


def catalogue_import(record: ImportRecord, params: IngestParams) -> Outcome:
    """Write the catalogue, the groups and the report of imported codes.

    Raises:
        TokenError: If the tags leave no track.
    """
    tag_filter = TagFilter(params.require_tags, params.skip_tags)
    reasons = {track.path: tag_filter.reason_to_skip(_metadata(track)) for track in record.tracks}
    kept = {track.path: track for track in record.tracks if not reasons[track.path]}
    if not kept:
        raise TokenError(f"the tags leave none of {len(reasons)} imported tracks")
    keys = {
        path: (
            *group_names(_metadata(track), params.group_by, path.rpartition("/")[0]),
            f"name:{path.rpartition('.')[0]}",
        )
        for path, track in kept.items()
    }
    groups = form_groups(keys, [])
    tracks = _to_records(record, kept, groups, params)
    check_leaks(
        [Placed(t.path, t.split, t.group, t.audio_sha256, keys[t.path]) for t in tracks], []
    )
    verdicts = [
        Verdict(path, "reject" if reason else "accept", reason) for path, reason in reasons.items()
    ]
    write_text(paths.INGEST_REPORT, format_report(verdicts))
    rows = ((t.path, t.group, t.split, "; ".join(groups[t.path].linked_by)) for t in tracks)
    write_text(paths.INGEST_GROUPS, format_table(("path", "group", "split", "linked_by"), rows))
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
    seconds: defaultdict[str, float] = defaultdict(float)
    for path, track in kept.items():
        seconds[groups[path].group] += track.num_frames * frame_s
    plan = SplitPlan(
        validation_frac=params.validation_frac,
        test_frac=params.test_frac,
        min_validation_s=params.min_validation_s,
        seed=params.split_seed,
    )
    splits = split_groups(seconds, plan)
    return [
        TrackRecord(
            id=track.id,
            path=path,
            group=groups[path].group,
            split=splits[groups[path].group],
            duration_s=track.num_frames * frame_s,
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
