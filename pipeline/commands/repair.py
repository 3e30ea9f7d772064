"""`melodac verify` and `melodac repair`: report damage, and restore the token store.

`verify` reads back every byte that has a hash on record. `repair` rewrites damaged shards from the
codes of their tracks, which come from the cache or are encoded again. If the contents of the store
are unknown (its manifest, its table of tracks or its header is damaged), the encode stage writes
all of it anew.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from melodac.codec.interface import Codec
from melodac.codec.load import load_codec
from melodac.errors import (
    CheckpointCorruptError,
    CodecError,
    MelodacError,
    StoreCorruptError,
    StoreVersionError,
    UnreadableAudioError,
)
from melodac.files import hash_file
from melodac.token_files.store_writer import can_repair, rewrite_shards, tracks_to_repair
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
from melodac.training.checkpoint import open_checkpoint
from pipeline import paths
from pipeline.cache.codes import TrackEncoder, choose_threads, hold_encode_scratch
from pipeline.params import Params
from pipeline.processes.devices import set_up_torch
from pipeline.records import NormalizedRecord, read_normalized
from pipeline.source.handover import HANDED_ON
from pipeline.stages import encode

Found = tuple[str, list[str]]
"""Summary of what was checked, and one line for each damage."""


def verify() -> tuple[list[str], list[str]]:
    """Check normalised audio, token store and checkpoints; return whole and damaged, a line each.

    Normalised audio is checked only if its table exists, as the stages after `encode` do without,
    and not after an import, which has none.
    """
    whole: list[str] = []
    damaged: list[str] = []
    checks: list[tuple[str, Path, Callable[[Path], Found]]] = [
        ("token store", paths.TOKENS, _check_store),
        ("checkpoints", paths.CHECKPOINT, _check_checkpoints),
    ]
    if paths.NORMALIZED_TABLE.exists() and not HANDED_ON.exists():
        checks.insert(0, ("normalised audio", paths.NORMALIZED_AUDIO, _check_audio))
    for name, path, check in checks:
        if not path.exists():
            damaged.append(f"{name}: {path} is missing, run `dvc repro` or `dvc checkout`")
            continue
        try:
            words, problems = check(path)
        except MelodacError as error:
            words, problems = "", [str(error)]
        damaged += [f"{name}: {problem}" for problem in problems]
        if not problems:
            whole.append(f"{name}: {path}: {words}")
    return whole, damaged


def _check_audio(path: Path) -> Found:
    rows = read_normalized(paths.NORMALIZED_TABLE)
    problems: list[str] = []
    for row in rows:
        file = path / f"{row.id}.flac"
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif hash_file(file) != row.sha256:
            problems.append(f"{file} has other bytes than were written")
    return f"{len(rows)} tracks", problems


def _check_store(path: Path) -> Found:
    files = inspect_store(path)
    if files.damage:
        return "", [f"{path}/{line}; run `melodac repair`" for line in files.describe()]
    num_frames = 0
    for track in open_store(path).tracks():  # decodes every shard and checks the range of codes
        num_frames += track.codes.shape[1]
    table = files.table
    return f"{len(table.ids)} tracks, {num_frames} frames, {table.num_shards()} shards", []


def _check_checkpoints(path: Path) -> Found:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if not folders:
        raise CheckpointCorruptError(f"{path} holds no checkpoint, run `dvc repro train`")
    updates = [open_checkpoint(folder).update for folder in folders]
    return f"update {', '.join(str(update) for update in updates)}", []


log = logging.getLogger(__name__)


def repair(params: Params) -> list[str]:
    """Repair the token store and read it back; return what was done, one line each.

    A track that cannot be encoded again, because its audio is gone or damaged, raises an error that
    names it; the store is then unchanged.
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
        # the writer replaces a folder only if it looks like a store, that is, has a manifest
        (folder / MANIFEST).touch()
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
