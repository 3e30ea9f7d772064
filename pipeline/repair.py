"""`melodac repair`: make the token store whole again, at the price of what is damaged.

Shards are written anew from the codes of their tracks, which come from the cache or are encoded
again. Where it is not known what the store held (its manifest, its table of tracks or its header is
damaged), all of it is written anew, which is what the encode stage does.
"""

import logging
from collections.abc import Sequence

from melodac.codec.interface import Codec
from melodac.codec.load import load_codec
from melodac.errors import (
    CodecError,
    StoreCorruptError,
    StoreVersionError,
    UnreadableAudioError,
)
from melodac.tokens.store.header import StoreHeader
from melodac.tokens.store.manifest import (
    ARRAY,
    MANIFEST,
    TRACKS,
    VECTORS,
    StoreFiles,
    inspect_store,
)
from melodac.tokens.store.reader import open_store, read_header
from melodac.tokens.store.repair import can_repair, rewrite_shards, tracks_to_repair
from pipeline import paths
from pipeline.code_cache import hold_encode_scratch
from pipeline.devices import set_up_torch
from pipeline.params import Params
from pipeline.records import NormalizedRecord, read_normalized
from pipeline.stages import encode
from pipeline.track_encoder import TrackEncoder, choose_threads

log = logging.getLogger(__name__)


def repair(params: Params) -> list[str]:
    """Repair the token store and read it back; returns what was done, one line each.

    What cannot be encoded again, because its audio is gone or damaged, ends it with an error that
    names it; the store is then as it was.
    """
    try:
        files = inspect_store(paths.TOKENS)
    except (StoreCorruptError, StoreVersionError) as error:
        done = _rebuild(params, str(error))
    else:
        if not files.damage:
            return [f"{paths.TOKENS} is whole, nothing to repair"]
        done = (
            _repair_shards(params, files)
            if can_repair(files)
            else _rebuild(params, "; ".join(files.describe()))
        )
    store = open_store(paths.TOKENS)
    return [*done, f"{paths.TOKENS} is whole: {len(store.track_ids)} tracks"]


def _rebuild(params: Params, reason: str) -> list[str]:
    folder = paths.TOKENS
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set[str]()
    if names and names <= {ARRAY, TRACKS, VECTORS}:
        (folder / MANIFEST).touch()  # so that the writer takes it for the store it was
    outcome = encode.run(params)
    return [reason, f"written anew from all {outcome.counts['tracks out']} tracks"]


def _repair_shards(params: Params, files: StoreFiles) -> list[str]:
    header = read_header(files.path)
    device = set_up_torch(params.runtime)
    codec = load_codec(params.codec.weights, device=str(device))
    _check_codec(codec, header, params.codec.weights)
    rows = _find_rows(tracks_to_repair(files))
    with hold_encode_scratch() as scratch:
        encoder = TrackEncoder(codec, scratch.codes, header.channels, device=device)
        missing = encoder.missing(rows)
        encoded = list(encoder.encode(missing, workers=choose_threads(params.runtime, device)))
        rewrite_shards(files, header, {row.id: encoder.source(row) for row in rows})
    counts = f"{len(encoded)} of their {len(rows)} tracks encoded, the rest from the cache"
    shards = len(files.damaged_shards())
    return [*files.describe(), f"{shards} shards written anew, {counts}"]


def _check_codec(codec: Codec, header: StoreHeader, name: str) -> None:
    if codec.weights_sha256 != header.weights_sha256:
        raise CodecError(
            f"the store was encoded by codec {header.codec!r} ({header.weights_sha256[:12]}), "
            f"codec.weights is {name!r} ({codec.weights_sha256[:12]}): set it back to repair, or "
            "run the encode stage again"
        )


def _find_rows(ids: Sequence[str]) -> list[NormalizedRecord]:
    remedy = "run `dvc repro normalize` or `dvc checkout` to get it back"
    if not paths.NORMALIZED_TABLE.is_file():
        raise UnreadableAudioError(
            f"{paths.NORMALIZED_TABLE} is missing, so track {ids[0]} cannot be encoded: {remedy}"
        )
    rows = {row.id: row for row in read_normalized(paths.NORMALIZED_TABLE)}
    unknown = [track_id for track_id in ids if track_id not in rows]
    if unknown:
        raise UnreadableAudioError(
            f"{len(unknown)} damaged tracks are not in {paths.NORMALIZED_TABLE}, the first is "
            f"{unknown[0]}: {remedy}"
        )
    return [rows[track_id] for track_id in ids]
