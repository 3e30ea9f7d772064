"""Damaged shards of a token store written anew, to the very bytes that its manifest lists.

Possible as long as the manifest and the table of tracks are whole and the codes of the tracks in
those shards can be had again. Imported by what has those codes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from melodac.errors import StoreCorruptError
from melodac.files import hash_file, sync
from melodac.tokens.store.header import StoreHeader
from melodac.tokens.store.manifest import ARRAY, StoreFiles
from melodac.tokens.store.shards import METADATA, Leaf, ShardWriter, plan_shards
from melodac.tokens.store.writer import LeafWriter, TrackSource, build_table


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
    _remove(partial)
    try:
        writer = _write(files, header, sources, partial)
        for shard, name in damaged.items():
            _check(files, name, writer.path(shard))
        for name in set(files.damage) - set(damaged.values()):
            (files.path / name).unlink()
        for shard, name in damaged.items():
            _move(writer.path(shard), files.path / name)
    finally:
        _remove(partial)


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


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
