"""What of a token store is whole: every byte compared with the manifest, damage named by shard.

Opening a store refuses any damage; verifying and repairing need to know which. Imported by the
store, and by what repairs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from melodac.errors import StoreCorruptError
from melodac.tokens.header import FORMAT_VERSION
from melodac.tokens.manifest import Manifest, find_damage, read_manifest
from melodac.tokens.shards import METADATA, shard_name
from melodac.tokens.table import TrackTable

TRACKS = "tracks.json"
ARRAY = "codes"
VECTORS = "vectors.safetensors"
"""Optional: a store of codes whose codec is unknown, or that was written before, has none."""

_MAX_NAMED_TRACKS = 20


@dataclass(frozen=True)
class StoreFiles:
    """A store whose manifest and table of tracks are sound; what else is may be damaged."""

    path: Path
    manifest: Manifest
    fingerprint: str
    table: TrackTable
    damage: dict[str, str]
    """Every file that is not as written, relative to the store, and what is wrong with it."""

    def damaged_shards(self) -> dict[int, str]:
        """Numbers of the damaged shards and the names of their files."""
        names = self._shard_names()
        return {names[name]: name for name in sorted(self.damage) if name in names}

    def describe(self) -> list[str]:
        """What is damaged, one line a file, with the tracks that are in each damaged shard."""
        shards = {name: shard for shard, name in self.damaged_shards().items()}
        return [
            f"{name} {problem}{_describe_tracks(self.table.tracks_in(shards[name]))}"
            if name in shards
            else f"{name} {problem}"
            for name, problem in sorted(self.damage.items())
        ]

    def _shard_names(self) -> dict[str, int]:
        return _shard_names(self.table, self.manifest)


def inspect_store(path: Path) -> StoreFiles:
    """Compare every file of a store with its manifest.

    A store of another format version is refused with `StoreVersionError`.

    Raises:
        StoreCorruptError: If the manifest or the table of tracks is missing or damaged, so that
            nothing is known about the rest.
    """
    manifest, fingerprint = read_manifest(path, FORMAT_VERSION)
    damage = find_damage(path, manifest)
    if TRACKS in damage or TRACKS not in manifest.files:
        problem = damage.get(TRACKS, "is not in the manifest")
        raise StoreCorruptError(f"{path / TRACKS} {problem}: write the store again")
    try:
        table = TrackTable.model_validate_json((path / TRACKS).read_bytes())
    except ValidationError as error:
        raise StoreCorruptError(
            f"{path} holds no token store of this format ({error}): write the store again"
        ) from error
    expected = {TRACKS, f"{ARRAY}/{METADATA}", *_shard_names(table, manifest)}
    unlisted = dict.fromkeys(expected - manifest.files.keys(), "is not in the manifest")
    foreign = manifest.files.keys() - expected - {VECTORS}
    unknown = dict.fromkeys(foreign, "is no file of a token store")
    return StoreFiles(path, manifest, fingerprint, table, {**unlisted, **unknown, **damage})


def _shard_names(table: TrackTable, manifest: Manifest) -> dict[str, int]:
    # a foreign table may claim any number of shards: one more than there are files is missing
    num_shards = min(table.num_shards(), len(manifest.files) + 1)
    return {f"{ARRAY}/{shard_name(shard)}": shard for shard in range(num_shards)}


def _describe_tracks(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:_MAX_NAMED_TRACKS])
    more = len(ids) - _MAX_NAMED_TRACKS
    return f" (holds {len(ids)} tracks: {named}{f' and {more} more' if more > 0 else ''})"
