"""Passage of imported codes through the stages that do not apply to them.

`normalize` has no audio to level and hands the store on; `encode` takes it as its own output. Every
later stage then works as with codes of our own.
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from melodac.errors import ConfigError, StoreCorruptError
from melodac.tokens.store.reader import open_store
from pipeline import paths
from pipeline.records import Outcome, write_normalized
from pipeline.source.imported import STORE, ImportRecord

HANDED_ON = paths.NORMALIZED / "codes"
"""Place where normalize leaves the store for encode."""


def hand_on(record: ImportRecord, source: Path) -> Outcome:
    """Run normalize for an import: copy the store, write an empty table of audio.

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
    """Run encode for an import: take the store that normalize handed on.

    Args:
        weights: `codec.weights`.
        known: Names of melodac's codecs.

    Raises:
        ConfigError: If the codes are of another of melodac's codecs.
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
    for leftover in (partial, target):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    # copies, since DVC's cache may have made links, which a store refuses
    shutil.copytree(store, partial, copy_function=_copy_bytes)
    partial.rename(target)


def _copy_bytes(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o644)
