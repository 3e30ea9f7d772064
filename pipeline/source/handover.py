"""Pass-through of imported codes in the stages that process audio.

`normalize` has no audio to process and copies the token store on; `encode` copies it to its own
output. Every later stage runs as on codes that melodac encoded.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from melodac.errors import ConfigError, StoreCorruptError
from melodac.files import publish_folder, remove_folder
from melodac.tokens.store.reader import open_store
from pipeline import paths
from pipeline.records import Outcome, write_normalized
from pipeline.source.imported import STORE, ImportRecord

HANDED_ON = paths.NORMALIZED / "codes"
"""Folder in which normalize leaves the imported store for encode."""


def hand_on(record: ImportRecord, source: Path) -> Outcome:
    """Do normalize's part for an import: copy the store and write an empty table of audio.

    Raises:
        StoreCorruptError: If the store is not the one that was imported.
    """
    store = open_store(source / STORE)
    if store.fingerprint != record.store_fingerprint:
        raise StoreCorruptError(f"{source / STORE} is not what was imported: import it again")
    shutil.rmtree(paths.NORMALIZED, ignore_errors=True)
    paths.NORMALIZED.mkdir(parents=True)
    _copy(source / STORE, HANDED_ON)
    write_normalized(paths.NORMALIZED_TABLE, [])
    count = len(store.track_ids)
    return Outcome(
        counts={"tracks in": count, "tracks out": count, "with sound": 0},
        metrics={"tracks": count, "imported": True},
    )


def take_over(weights: str, known: Collection[str]) -> Outcome:
    """Do encode's part for an import: copy the store that normalize handed on.

    Args:
        weights: `codec.weights`.
        known: Names of the codecs that melodac can load.

    Raises:
        ConfigError: If the codes are of another known codec than `weights`.
    """
    header = open_store(HANDED_ON).header
    if header.codec != weights and header.codec in known:
        raise ConfigError(
            f"codec.weights = {weights!r}: the imported codes are of codec {header.codec!r}; set "
            f"codec.weights: {header.codec}"
        )
    _copy(HANDED_ON, paths.TOKENS)
    store = open_store(paths.TOKENS)
    num_frames = sum(store.num_frames(name) for name in store.track_ids)
    return Outcome(
        counts={"tracks in": len(store.track_ids), "tracks out": len(store.track_ids)},
        metrics={
            "codec": header.codec,
            "tracks": len(store.track_ids),
            "frames": num_frames,
            "codes": num_frames * header.num_columns,
            "hours": round(num_frames * header.hop / header.sample_rate_hz / 3600, 4),
            "imported": True,
        },
    )


def _copy(store: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    remove_folder(partial)
    # not the links that DVC's cache may have made: a store refuses them
    shutil.copytree(store, partial, copy_function=_copy_bytes)
    publish_folder(partial, target)


def _copy_bytes(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o644)
