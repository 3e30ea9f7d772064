"""How imported codes pass the stages that have nothing to do with them.

`normalize` has no sound to bring to one loudness and hands the store on, `encode` takes it as its
own: every stage after it runs as on codes of our own.
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
"""Where normalize leaves the store for encode."""


def hand_on(record: ImportRecord, source: Path) -> Outcome:
    """What normalize does with an import: the store as it is, and a table of no sound.

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
    """What encode does with an import: the store that normalize handed on.

    Args:
        weights: `codec.weights`.
        known: Codecs that melodac has.

    Raises:
        ConfigError: If the codes are of another codec that is known.
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
