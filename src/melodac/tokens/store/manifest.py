"""Manifest of a token store and comparison of its files with it: every byte has a hash.

    Manifest     sha256 and size of every file, written last; a folder is whole or not there
    TrackTable   tracks.json: rows of the array by track
    StoreFiles   every byte compared with the manifest, damage named by shard

A folder is filled under a temporary name next to its final one, hashed, synced to disk and renamed.
Opening a store refuses any damage; verifying and repairing need to know the damaged files.
"""

import hashlib
import json
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from jaxtyping import Int64
from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from melodac.config import Section
from melodac.errors import OutputError, StoreCorruptError, StoreVersionError
from melodac.files import hash_file, remove_folder, sync
from melodac.tokens.store.header import FORMAT_VERSION
from melodac.tokens.store.shards import MAX_FRAMES_PER_SHARD, METADATA, shard_name

MANIFEST = "manifest.json"
"""Name of the file that lists all others."""


class FileEntry(Section):
    """Expected hash and size of a file."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: NonNegativeInt


class Manifest(Section):
    """Expected files of a folder, without the manifest itself."""

    format_version: int
    files: dict[str, FileEntry]
    """Expectation for each file, by path relative to the folder, with forward slashes."""


@contextmanager
def whole_folder(path: Path, format_version: int) -> Generator[Path, None, None]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    An older folder of this kind at `path` is replaced; a folder that an interrupted run left under
    the temporary name is removed first. Replacing takes two renames, since there is no portable way
    to exchange two folders: a reader between them, for some microseconds, finds no folder, and a
    run killed there leaves the old one under `.<name>.replaced`, from which the next run restores
    it. DVC removes a stage's outputs first, so a stage needs one rename only.

    Raises:
        OutputError: If something else is already at `path`.
    """
    if not _is_replaceable(path):
        raise OutputError(
            f"{path} exists and is not a folder written by melodac (it has no {MANIFEST}): "
            "remove it or choose another path"
        )
    partial = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    if replaced.exists() and not path.exists():
        replaced.rename(path)  # killed between two renames: the old folder gets its name back
    remove_folder(partial)
    remove_folder(replaced)
    partial.mkdir(parents=True)
    try:
        yield partial
        _write_manifest(partial, format_version)
        _sync(partial)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        sync(path.parent)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)  # the new folder did not get its name: the old one keeps it
        remove_folder(partial)
        remove_folder(replaced)


def read_manifest(folder: Path, format_version: int) -> tuple[Manifest, str]:
    """Read the manifest of a folder; return it with its sha256, which identifies the folder.

    Raises:
        StoreCorruptError: If there is none, or it cannot be parsed.
        StoreVersionError: If it has another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreCorruptError(
            f"no complete store at {folder}: {MANIFEST} is missing; write the store again"
        )
    content = path.read_bytes()
    found = _read_version(path, content)
    if found != format_version:
        raise StoreVersionError(
            f"{path} has format version {found!r}, this code reads {format_version}: "
            "run the encode stage again, or use the code that wrote it"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise StoreCorruptError(f"{path} is damaged ({error}): write the store again") from error
    return manifest, hashlib.sha256(content).hexdigest()


def find_damage(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return every file that differs from the manifest, with how it differs.

    Missing and additional files count as damage, and so do links: their targets can change.
    """
    found = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if not stat.S_ISDIR(file.lstat().st_mode)
    }
    found.pop(MANIFEST, None)
    damage = {name: "is missing" for name in manifest.files if name not in found}
    for name, file in found.items():
        problem = _compare(file, manifest.files.get(name))
        if problem:
            damage[name] = problem
    return damage


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """Write a value as JSON; equal values give equal bytes."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, indent=indent, separators=separators, sort_keys=True)
    path.write_text(text + "\n", encoding="ascii", newline="\n")


def _compare(file: Path, entry: FileEntry | None) -> str:
    status = file.lstat()
    if entry is None:
        return "is not in the manifest"
    if not stat.S_ISREG(status.st_mode):
        return "is a link or no regular file (for DVC, set cache.type to reflink, hardlink or copy)"
    if status.st_size != entry.size_bytes:
        return f"has {status.st_size} bytes instead of {entry.size_bytes}"
    return "" if hash_file(file) == entry.sha256 else "has other bytes than were written"


def _read_version(path: Path, content: bytes) -> object:
    try:
        value: object = json.loads(content)
    except ValueError as error:
        raise StoreCorruptError(f"{path} is not JSON: write the store again") from error
    if not isinstance(value, dict):
        raise StoreCorruptError(f"{path} is not a manifest: write the store again")
    return cast("dict[str, Any]", value).get("format_version")


def _is_replaceable(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return (path / MANIFEST).is_file() or not any(path.iterdir())
    return not path.exists()


def _write_manifest(folder: Path, format_version: int) -> None:
    entries = {
        file.relative_to(folder).as_posix(): {
            "sha256": hash_file(file),
            "size_bytes": file.stat().st_size,
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_json(folder / MANIFEST, {"format_version": format_version, "files": entries}, indent=1)


def _sync(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


_MAX_ROWS = 2**48
"""Largest row number: far more than there is music, far less than overflows int64."""

Row = Annotated[int, Field(ge=0, le=_MAX_ROWS)]
Length = Annotated[int, Field(ge=1, le=_MAX_ROWS)]


class TrackTable(Section):
    """Sorted ids of the tracks and their rows; rows without a track are never read."""

    ids: tuple[str, ...]
    first_rows: tuple[Row, ...]
    num_frames: tuple[Length, ...]
    frames_per_shard: Annotated[int, Field(ge=1, le=MAX_FRAMES_PER_SHARD)]

    @model_validator(mode="after")
    def _rows_of_its_own(self) -> "TrackTable":
        if not len(self.ids) == len(self.first_rows) == len(self.num_frames) > 0:
            raise ValueError("every track needs an id, a first row and a length, and one must be")
        if any(one >= other for one, other in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError("every track needs an id of its own, in sorted order")
        order = self.row_order()
        ends = (self.starts() + self.lengths())[order]
        if bool((ends[:-1] > self.starts()[order][1:]).any()):
            raise ValueError("every track needs rows of its own")
        return self

    def starts(self) -> Int64[np.ndarray, " B"]:
        """Return the first row of each track."""
        return np.array(self.first_rows, dtype=np.int64)

    def lengths(self) -> Int64[np.ndarray, " B"]:
        """Return the frames of each track."""
        return np.array(self.num_frames, dtype=np.int64)

    def row_order(self) -> Int64[np.ndarray, " B"]:
        """Return the positions of the tracks in the order of their rows."""
        return np.argsort(self.starts(), kind="stable")

    def num_shards(self) -> int:
        """Return the number of shards up to the last one that holds a frame."""
        return -(-int((self.starts() + self.lengths()).max()) // self.frames_per_shard)

    def tracks_in(self, shard: int) -> tuple[str, ...]:
        """Return the ids of the tracks that have a frame in a shard."""
        starts = self.starts()
        low, high = shard * self.frames_per_shard, (shard + 1) * self.frames_per_shard
        inside = np.flatnonzero((starts < high) & (starts + self.lengths() > low))
        return tuple(self.ids[int(position)] for position in inside)

    def runs(self) -> list[list[int]]:
        """Group the positions of tracks whose rows are adjacent inside one shard, in row order.

        Reading a group at once decodes no chunk twice; a track longer than a shard is a group.
        """
        runs: list[list[int]] = []
        end = -1
        for position in (int(row) for row in self.row_order()):
            first = self.first_rows[position]
            if first != end or first % self.frames_per_shard == 0:
                runs.append([])
            runs[-1].append(position)
            end = first + self.num_frames[position]
        return runs


TRACKS = "tracks.json"
ARRAY = "codes"
VECTORS = "vectors.safetensors"
"""Optional file: a store of an unknown codec, or of an earlier version of melodac, has none."""

_MAX_NAMED_TRACKS = 20


@dataclass(frozen=True)
class StoreFiles:
    """Store whose manifest and table of tracks are intact; other files may be damaged."""

    path: Path
    manifest: Manifest
    fingerprint: str
    table: TrackTable
    damage: dict[str, str]
    """Problem of every file that differs from the manifest, by path relative to the store."""

    def damaged_shards(self) -> dict[int, str]:
        """Return the file names of the damaged shards, by their number."""
        names = self._shard_names()
        return {names[name]: name for name in sorted(self.damage) if name in names}

    def describe(self) -> list[str]:
        """Return one line for each damaged file, with the tracks of each damaged shard."""
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

    A store of another format version raises `StoreVersionError`.

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
    # a foreign table may claim any number of shards; beyond the files there are, one is enough to
    # be reported as missing
    num_shards = min(table.num_shards(), len(manifest.files) + 1)
    return {f"{ARRAY}/{shard_name(shard)}": shard for shard in range(num_shards)}


def _describe_tracks(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:_MAX_NAMED_TRACKS])
    more = len(ids) - _MAX_NAMED_TRACKS
    return f" (holds {len(ids)} tracks: {named}{f' and {more} more' if more > 0 else ''})"
