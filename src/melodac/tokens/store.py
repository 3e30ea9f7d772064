"""The token store: codes of every track in a few large files that prove their own bytes.

    manifest.json      sha256 and size of every other file, format version
    tracks.json        ids and lengths, in the order of the rows
    codes/zarr.json    shape, codecs; the header as attributes
    codes/c/<n>/0      shard n

Written whole or not at all, byte-identical for identical input, checked before the first read.
Knows nothing of delay patterns. The encode stage writes it, everything after reads it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16
from pydantic import Field, PositiveInt, ValidationError, model_validator

from melodac.config import Section
from melodac.errors import StoreCorruptError, StoreVersionError, TokenError
from melodac.tokens.array import TokenArray
from melodac.tokens.manifest import (
    Manifest,
    find_damage,
    read_manifest,
    whole_folder,
    write_json,
)
from melodac.tokens.shards import (
    MAX_FRAMES_PER_SHARD,
    METADATA,
    ShardReader,
    ShardWriter,
    read_attributes,
    shard_name,
)
from melodac.tokens.vocabulary import CODEBOOK_SIZE

FORMAT_VERSION = 1
"""Version of the layout above; another one is refused, never guessed at."""

FRAMES_PER_SHARD = 2**20
"""Frames a shard: 3.4 hours at 44.1 kHz and hop 512, 19 MB of mono codes before compression."""

TRACKS = "tracks.json"
ARRAY = "codes"

_MAX_NAMED_TRACKS = 20


class StoreHeader(Section):
    """What the codes are and which codec made them."""

    format_version: int = FORMAT_VERSION
    codec: str
    """Name of the codec."""
    weights_sha256: str
    """Hash of the codec's weights: codes of other weights mean other sounds."""
    sample_rate_hz: PositiveInt
    hop: PositiveInt
    """Audio samples per frame."""
    num_codebooks: PositiveInt
    """Codebooks of one channel."""
    codebook_size: Annotated[int, Field(ge=1, le=CODEBOOK_SIZE)]
    num_channels: PositiveInt
    """Audio channels; the columns of channel 0 come first."""
    target_lufs: float
    """Loudness to which the audio was brought before it was encoded."""


class TrackCodes(NamedTuple):
    """Codes of one track."""

    id: str
    codes: UInt16[np.ndarray, "C K T"]


class TrackTable(Section):
    """Which rows of the array belong to which track."""

    ids: tuple[str, ...]
    num_frames: tuple[PositiveInt, ...]
    frames_per_shard: Annotated[int, Field(ge=1, le=MAX_FRAMES_PER_SHARD)]

    @model_validator(mode="after")
    def _one_length_per_id(self) -> "TrackTable":
        if len(self.ids) != len(self.num_frames) or len(set(self.ids)) != len(self.ids):
            raise ValueError("every track needs one id of its own and one length")
        return self

    def starts(self) -> Int64[np.ndarray, " B"]:
        """First row of each track."""
        lengths = self.lengths()
        return np.cumsum(lengths) - lengths

    def lengths(self) -> Int64[np.ndarray, " B"]:
        """Frames of each track."""
        return np.array(self.num_frames, dtype=np.int64)

    def tracks_in(self, shard: int) -> tuple[str, ...]:
        """Ids of the tracks that have a frame in a shard."""
        starts = self.starts()
        low, high = shard * self.frames_per_shard, (shard + 1) * self.frames_per_shard
        inside = np.flatnonzero((starts < high) & (starts + self.lengths() > low))
        return tuple(self.ids[int(position)] for position in inside)


def write_store(
    path: Path,
    header: StoreHeader,
    tracks: Iterable[TrackCodes],
    frames_per_shard: int = FRAMES_PER_SHARD,
) -> None:
    """Write tracks, in the order given, as a store at `path`; an older store there is replaced.

    Tracks are taken one at a time, so memory holds one track and one shard. Whatever goes wrong,
    `path` is afterwards what it was before. Shards that are not whole chunks, and a path that
    holds anything but a store, are refused with `TokenError` and `OutputError`.

    Raises:
        StoreVersionError: If the header is of another format version.
        TokenError: If there is no track, or one does not fit the header.
    """
    if header.format_version != FORMAT_VERSION:
        raise StoreVersionError(
            f"header has format version {header.format_version}, this code writes {FORMAT_VERSION}"
        )
    with whole_folder(path, FORMAT_VERSION) as folder:
        writer = ShardWriter(
            folder / ARRAY,
            num_columns=header.num_channels * header.num_codebooks,
            frames_per_shard=frames_per_shard,
            attributes=header.model_dump(mode="json"),
        )
        lengths: dict[str, int] = {}
        for track in tracks:
            _check_track(track, header, lengths)
            lengths[track.id] = track.codes.shape[-1]
            writer.append(track.codes.reshape(-1, track.codes.shape[-1]).T)
        if not lengths:
            raise TokenError(f"no track to write to {path}: a store holds at least one")
        writer.flush()
        table = {
            "ids": list(lengths),
            "num_frames": list(lengths.values()),
            "frames_per_shard": frames_per_shard,
        }
        write_json(folder / TRACKS, table)


def _check_track(track: TrackCodes, header: StoreHeader, seen: dict[str, int]) -> None:
    expected = (header.num_channels, header.num_codebooks)
    codes = track.codes
    problem = ""
    if not track.id.isprintable() or not track.id or track.id in seen:
        problem = "its id must be printable, not empty and its own"
    elif codes.dtype != np.uint16 or codes.ndim != 3 or codes.shape[:2] != expected:
        problem = f"codes are {codes.dtype} {codes.shape}, expected uint16 {expected} x frames"
    elif codes.shape[-1] == 0:
        problem = "it has no frame"
    elif int(codes.max()) >= header.codebook_size:
        problem = f"it holds {int(codes.max())}, codes are below {header.codebook_size}"
    if problem:
        raise TokenError(f"track {track.id!r} cannot be stored: {problem}")


@dataclass(frozen=True)
class TokenStore:
    """A store whose files were found to be those that were written."""

    header: StoreHeader
    fingerprint: str
    """Sha256 of the manifest: equal for equal codes, ids, header and layout."""
    _table: TrackTable
    _reader: ShardReader

    @property
    def track_ids(self) -> tuple[str, ...]:
        """Ids of all tracks, in the order in which they were written."""
        return self._table.ids

    def num_frames(self, track_id: str) -> int:
        """Frames of a track; an unknown one is refused with `TokenError`."""
        return self._table.num_frames[self._position(track_id)]

    def codes(self, track_id: str) -> UInt16[np.ndarray, "C K T"]:
        """Codes of a track, read from disk; an unknown one is refused with `TokenError`."""
        position = self._position(track_id)
        first = int(self._starts[position])
        stop = first + self._table.num_frames[position]
        frames = self._reader.read(first, stop, self.header.codebook_size)
        shape = (self.header.num_channels, self.header.num_codebooks, len(frames))
        return np.ascontiguousarray(frames.T).reshape(shape)

    def load(self) -> TokenArray:
        """Read every track into memory: 2 bytes a code, 280 MB for 50 hours of mono."""
        return TokenArray(
            values=self._reader.read_all(self.header.codebook_size),
            track_ids=self.track_ids,
            starts=self._starts,
            lengths=self._table.lengths(),
        )

    @cached_property
    def _starts(self) -> Int64[np.ndarray, " B"]:
        return self._table.starts()

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {track_id: position for position, track_id in enumerate(self.track_ids)}

    def _position(self, track_id: str) -> int:
        if track_id not in self._positions:
            raise TokenError(
                f"no track {track_id!r} in the store of {len(self.track_ids)} tracks: "
                "encode it, or take an id from track_ids"
            )
        return self._positions[track_id]


def open_store(path: Path) -> TokenStore:
    """Open a store after checking every byte of it against its manifest.

    A store of another format version is refused with `StoreVersionError`.

    Raises:
        StoreCorruptError: If a file is missing, damaged, additional or a link; the message names
            it and the tracks it holds.
    """
    manifest, fingerprint = read_manifest(path, FORMAT_VERSION)
    damage = find_damage(path, manifest)
    if TRACKS in damage or TRACKS not in manifest.files:
        problem = damage.get(TRACKS, "is not in the manifest")
        raise StoreCorruptError(f"{path / TRACKS} {problem}: write the store again")
    try:
        table = TrackTable.model_validate_json((path / TRACKS).read_bytes())
        num_frames = int(table.lengths().sum())
        num_shards = -(-num_frames // table.frames_per_shard)
        shards = {f"{ARRAY}/{shard_name(shard)}": shard for shard in range(num_shards)}
        _check_files(path, manifest, damage, table=table, shards=shards)
        header = StoreHeader.model_validate(read_attributes(path / ARRAY))
    except ValidationError as error:
        raise StoreCorruptError(
            f"{path} holds no token store of this format ({error}): write the store again"
        ) from error
    shape = (num_frames, header.num_channels * header.num_codebooks)
    reader = ShardReader(path / ARRAY, shape=shape, frames_per_shard=table.frames_per_shard)
    return TokenStore(header, fingerprint, table, reader)


def _check_files(
    path: Path,
    manifest: Manifest,
    damage: dict[str, str],
    *,
    table: TrackTable,
    shards: dict[str, int],
) -> None:
    expected = {TRACKS, f"{ARRAY}/{METADATA}", *shards}
    unlisted = dict.fromkeys(expected - manifest.files.keys(), "is not in the manifest")
    unknown = dict.fromkeys(manifest.files.keys() - expected, "is no file of a token store")
    found = {**unlisted, **unknown, **damage}
    if found:
        lines = [
            f"{name} {problem}{_describe_tracks(table.tracks_in(shards[name]))}"
            if name in shards
            else f"{name} {problem}"
            for name, problem in sorted(found.items())
        ]
        raise StoreCorruptError(
            f"{len(lines)} files of the store {path} are damaged: {'; '.join(lines)}. "
            "Write the store again, or restore it from a copy"
        )


def _describe_tracks(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:_MAX_NAMED_TRACKS])
    more = len(ids) - _MAX_NAMED_TRACKS
    return f" (holds {len(ids)} tracks: {named}{f' and {more} more' if more > 0 else ''})"
