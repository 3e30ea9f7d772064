"""From what is known of tracks to their groups and splits, for the stage and for imported codes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from melodac.audio.groups import Membership, group_names
from melodac.audio.metadata.fields import TrackMetadata
from melodac.audio.near_duplicates import NearDuplicate
from melodac.audio.split import Placed, Split, SplitPlan, check_leaks, split_groups
from pipeline.params import IngestParams
from pipeline.records import TrackRecord
from pipeline.verdicts import format_table


def list_keys(path: str, metadata: TrackMetadata, params: IngestParams) -> tuple[str, ...]:
    """What a track shares with those it must not be parted from; at least one.

    The path without extension is always one: song.wav and song.mp3 in one folder are one song.
    """
    folder, stem = path.rpartition("/")[0], path.rpartition(".")[0]
    return (*group_names(metadata, params.group_by, folder), f"name:{stem}")


def split_tracks(
    durations_s: Mapping[str, float], groups: Mapping[str, Membership], params: IngestParams
) -> dict[str, Split]:
    """The split of each track, by path; errors as in `split_groups`."""
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
    """Pass if the final catalogue parts nothing that belongs together; else a `LeakError`."""
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
    """The table `path,group,split,linked_by`."""
    rows = (
        (track.path, track.group, track.split, "; ".join(groups[track.path].linked_by))
        for track in tracks
    )
    return format_table(("path", "group", "split", "linked_by"), rows)
