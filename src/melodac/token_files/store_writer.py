"""`write_store`: tracks -> a token store, whole or not at all; and damaged shards written anew.

The bytes are identical for identical input. Where a track goes follows from ids and lengths
(`plan_shards`), so these are known before any codes are read; then memory holds one track and one
shard.

Shards that were written before come from a `ShardCache`, found by what they were made of and proven
by their bytes. A file there is named `<recipe>.<sha256>`: a hash of everything that went in, and
one of what came out. It shares its bytes on disk with the store where the file system can (a hard
link); nothing ever writes to a shard in place.

A repair gives the very bytes that the manifest lists, as long as the manifest and the table of
tracks are whole and the codes of the tracks in those shards can be had again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from melodac.errors import StoreCorruptError, StoreVersionError, TokenError
from melodac.files import hash_file, link_or_copy, remove_folder, sync
from melodac.tokens.store.header import (
    FORMAT_VERSION,
    CodeVectors,
    StoreHeader,
    write_vectors,
)
from melodac.tokens.store.manifest import (
    ARRAY,
    TRACKS,
    VECTORS,
    StoreFiles,
    TrackTable,
    whole_folder,
    write_json,
)
from melodac.tokens.store.shards import (
    METADATA,
    Leaf,
    ShardWriter,
    check_frames_per_shard,
    plan_shards,
)


class ShardCache:
    """A folder of shards; one process at a time may use it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._found = {file.name.partition(".")[0]: file for file in sorted(folder.iterdir())}
        self._used: set[str] = set()

    def fetch(self, recipe: str, target: Path) -> bool:
        """Put the shard of a recipe at `target`; False if there is none whose bytes are right."""
        file = self._found.get(recipe)
        if file is None:
            return False
        if hash_file(file) != file.name.partition(".")[2]:
            file.unlink()  # damaged: what is written in its place must not meet it
            return False
        self._used.add(file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(file, target)
        return True

    def keep(self, recipe: str, shard: Path) -> None:
        """Remember a shard that was just written."""
        name = f"{recipe}.{hash_file(shard)}"
        self._used.add(name)
        if not (self._folder / name).exists():
            link_or_copy(shard, self._folder / name)

    def drop_unused(self) -> None:
        """Remove every shard that was neither fetched nor kept since this cache was opened."""
        for file in self._folder.iterdir():
            if file.name not in self._used:
                file.unlink()


FRAMES_PER_SHARD = 2**20
"""Frames a shard: 3.4 hours at 44.1 kHz and hop 512, 19 MB of mono codes before compression."""


@dataclass(frozen=True)
class TrackSource:
    """A track that is read when its shard is written."""

    id: str
    num_frames: int
    read: Callable[[], UInt16[np.ndarray, "K T"]]
    """All columns, channel after channel."""
    codes_sha256: str = ""
    """Hash that names the codes; empty if unknown, then no shard with this track is reused."""


@dataclass(frozen=True)
class WriteReport:
    """How much of a store was new."""

    num_shards: int
    num_written: int
    """Shards that were not in the cache."""


def write_store(
    path: Path,
    header: StoreHeader,
    tracks: Iterable[TrackSource],
    *,
    frames_per_shard: int = FRAMES_PER_SHARD,
    vectors: CodeVectors | None = None,
    cache: ShardCache | None = None,
) -> WriteReport:
    """Write tracks as a store at `path`; an older store there is replaced.

    Neither the order of the tracks nor the cache changes a byte. Whatever goes wrong, `path` is
    afterwards what it was before. Shards that are not whole chunks, and a path that holds anything
    but a store, are refused with `TokenError` and `OutputError`.

    Args:
        path: Folder of the store.
        header: What the codes are.
        tracks: In any order.
        frames_per_shard: Multiple of the frames of a chunk.
        vectors: What the codec's codes sound like; None if nobody knows.
        cache: Shards that were written before.

    Raises:
        StoreVersionError: If the header is of another format version.
        TokenError: If there is no track, or one does not fit the header.
    """
    if header.format_version != FORMAT_VERSION:
        raise StoreVersionError(
            f"header has format version {header.format_version}, this code writes {FORMAT_VERSION}"
        )
    check_frames_per_shard(frames_per_shard)
    sources = _by_id(tracks)
    if not sources:
        raise TokenError(f"no track to write to {path}: a store holds at least one")
    lengths = {track_id: source.num_frames for track_id, source in sources.items()}
    leaves = plan_shards(lengths, frames_per_shard)
    num_shards = sum(leaf.num_shards for leaf in leaves)
    with whole_folder(path, FORMAT_VERSION) as folder:
        writer = ShardWriter(
            folder / ARRAY,
            shape=(num_shards * frames_per_shard, header.num_columns),
            frames_per_shard=frames_per_shard,
            attributes=header.model_dump(mode="json"),
        )
        leaf_writer = LeafWriter(writer, header, frames_per_shard=frames_per_shard, cache=cache)
        num_written = sum(leaf_writer.write(leaf, sources) for leaf in leaves)
        table = build_table(leaves, lengths, frames_per_shard)
        write_json(folder / TRACKS, table.model_dump(mode="json"))
        if vectors is not None:
            write_vectors(folder / VECTORS, vectors, header)
    return WriteReport(num_shards, num_written)


class LeafWriter:
    """Writes the shards of one leaf after the other."""

    def __init__(
        self,
        writer: ShardWriter,
        header: StoreHeader,
        *,
        frames_per_shard: int,
        cache: ShardCache | None,
    ) -> None:
        self._writer = writer
        self._header = header
        self._frames_per_shard = frames_per_shard
        self._cache = cache

    def write(self, leaf: Leaf, sources: Mapping[str, TrackSource]) -> int:
        """Put the shards of a leaf in place and count those that the cache did not have."""
        tracks = [sources[track_id] for track_id in leaf.track_ids]
        recipes = [self._recipe(tracks, part) for part in range(leaf.num_shards)]
        missing = [
            part
            for part, recipe in enumerate(recipes)
            if not self._fetch(recipe, self._writer.path(leaf.first_shard + part))
        ]
        if not missing:
            return 0
        self.write_parts(leaf, missing, sources)
        for part in missing:
            if self._cache is not None and recipes[part]:
                self._cache.keep(recipes[part], self._writer.path(leaf.first_shard + part))
        return len(missing)

    def write_parts(
        self, leaf: Leaf, parts: Iterable[int], sources: Mapping[str, TrackSource]
    ) -> None:
        """Write some of the shards of a leaf, whatever the cache has."""
        rows = self._read([sources[track_id] for track_id in leaf.track_ids])
        for part in parts:
            first = part * self._frames_per_shard
            self._writer.write(
                leaf.first_shard + part, rows[first : first + self._frames_per_shard]
            )

    def _fetch(self, recipe: str, shard: Path) -> bool:
        return self._cache is not None and bool(recipe) and self._cache.fetch(recipe, shard)

    def _recipe(self, tracks: list[TrackSource], part: int) -> str:
        """Name of everything that a shard's bytes depend on; empty if that is not known."""
        if not all(track.codes_sha256 for track in tracks):
            return ""
        recipe = {
            "format_version": FORMAT_VERSION,
            "libraries": {name: version(name) for name in ("numcodecs", "zarr")},
            "shape": [self._frames_per_shard, self._header.num_columns],
            "part": part,
            "tracks": [[track.id, track.num_frames, track.codes_sha256] for track in tracks],
        }
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def _read(self, tracks: list[TrackSource]) -> UInt16[np.ndarray, "T K"]:
        num_frames = sum(track.num_frames for track in tracks)
        rows = np.empty((num_frames, self._header.num_columns), dtype=np.uint16)
        end = 0
        for track in tracks:
            codes = track.read()
            _check_codes(track, codes, self._header)
            rows[end : end + track.num_frames] = codes.T
            end += track.num_frames
        return rows


def _by_id(tracks: Iterable[TrackSource]) -> dict[str, TrackSource]:
    sources: dict[str, TrackSource] = {}
    for track in tracks:
        problem = ""
        if not track.id.isprintable() or not track.id or track.id in sources:
            problem = "its id must be printable, not empty and its own"
        elif track.num_frames < 1:
            problem = "it has no frame"
        if problem:
            raise TokenError(f"track {track.id!r} cannot be stored: {problem}")
        sources[track.id] = track
    return dict(sorted(sources.items()))


def _check_codes(track: TrackSource, codes: np.ndarray, header: StoreHeader) -> None:
    expected = (header.num_columns, track.num_frames)
    problem = ""
    if codes.dtype != np.uint16 or codes.shape != expected:
        problem = f"codes are {codes.dtype} {codes.shape}, expected uint16 {expected}"
    elif int(codes.max()) >= header.codebook_size:
        problem = f"it holds {int(codes.max())}, codes are below {header.codebook_size}"
    if problem:
        raise TokenError(f"track {track.id!r} cannot be stored: {problem}")


def build_table(
    leaves: Iterable[Leaf], lengths: Mapping[str, int], frames_per_shard: int
) -> TrackTable:
    """Where every track lies, for a plan of all tracks and their lengths, sorted by id."""
    first_rows: dict[str, int] = {}
    for leaf in leaves:
        row = leaf.first_shard * frames_per_shard
        for track_id in leaf.track_ids:
            first_rows[track_id] = row
            row += lengths[track_id]
    return TrackTable(
        ids=tuple(lengths),
        first_rows=tuple(first_rows[track_id] for track_id in lengths),
        num_frames=tuple(lengths.values()),
        frames_per_shard=frames_per_shard,
    )


def can_repair(files: StoreFiles) -> bool:
    """Whether all that is wrong is in shards, or in files that do not belong to the store."""
    listed, shards = files.manifest.files, files.damaged_shards().values()
    if f"{ARRAY}/{METADATA}" in files.damage or not listed.keys() >= set(shards):
        return False
    return all(name in shards or name not in listed for name in files.damage)


def tracks_to_repair(files: StoreFiles) -> list[str]:
    """Ids of all tracks with a frame in a damaged shard, sorted."""
    table = files.table
    return sorted({name for shard in files.damaged_shards() for name in table.tracks_in(shard)})


def rewrite_shards(
    files: StoreFiles, header: StoreHeader, sources: Mapping[str, TrackSource]
) -> None:
    """Put whole shards in the place of damaged ones, and remove files that are not the store's.

    The store is left as it is, with `StoreCorruptError`, if the codes given do not make the shards
    that its manifest lists.

    Args:
        files: A store for which `can_repair` holds.
        header: Of that store.
        sources: Every track of `tracks_to_repair`.
    """
    damaged = files.damaged_shards()
    partial = files.path.with_name(f".{files.path.name}.repair")
    remove_folder(partial)
    try:
        writer = _write(files, header, sources, partial)
        for shard, name in damaged.items():
            _check(files, name, writer.path(shard))
        for name in set(files.damage) - set(damaged.values()):
            (files.path / name).unlink()
        for shard, name in damaged.items():
            _move(writer.path(shard), files.path / name)
    finally:
        remove_folder(partial)


def _write(
    files: StoreFiles, header: StoreHeader, sources: Mapping[str, TrackSource], folder: Path
) -> ShardWriter:
    table, damaged = files.table, files.damaged_shards()
    shape = (table.num_shards() * table.frames_per_shard, header.num_columns)
    writer = ShardWriter(
        folder, shape=shape, frames_per_shard=table.frames_per_shard, attributes={}
    )
    leaf_writer = LeafWriter(writer, header, frames_per_shard=table.frames_per_shard, cache=None)
    for leaf in _plan(files):
        parts = [part for part in range(leaf.num_shards) if leaf.first_shard + part in damaged]
        if parts:
            leaf_writer.write_parts(leaf, parts, sources)
    return writer


def _plan(files: StoreFiles) -> list[Leaf]:
    table = files.table
    lengths = dict(zip(table.ids, table.num_frames, strict=True))
    leaves = plan_shards(lengths, table.frames_per_shard)
    if build_table(leaves, lengths, table.frames_per_shard) != table:
        raise StoreCorruptError(
            f"{files.path} was laid out by other code: run the encode stage again"
        )
    return leaves


def _check(files: StoreFiles, name: str, shard: Path) -> None:
    if hash_file(shard) != files.manifest.files[name].sha256:
        raise StoreCorruptError(
            f"{files.path / name} cannot be repaired: its tracks now give other codes, or the "
            "libraries that write shards changed; run the encode stage again"
        )


def _move(shard: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    sync(shard)
    shard.replace(target)
    sync(target.parent)
