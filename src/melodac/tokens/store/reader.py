"""The token store: codes of every track in a few large files, each with a hash.

    manifest.json        sha256 and size of every other file, format version
    tracks.json          ids, first rows and lengths, sorted by id
    codes/zarr.json      shape, codecs; the header as attributes
    codes/c/<n>/0        shard n: tracks whose hashed ids share a prefix, from its first row on
    vectors.safetensors  code vectors; absent if the codec is unknown

Checked before the first read. Knows nothing of delay patterns or of the order in which a model
reads columns. `melodac.token_files.store_writer` writes it; everything after the encode stage
reads it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from pydantic import ValidationError

from melodac.errors import StoreCorruptError, TokenError
from melodac.tokens.array import TokenArray
from melodac.tokens.store.header import CodeVectors, StoreHeader, TrackCodes, read_vectors
from melodac.tokens.store.manifest import ARRAY, VECTORS, TrackTable, inspect_store
from melodac.tokens.store.shards import ShardReader, read_attributes


@dataclass(frozen=True)
class TokenStore:
    """Open store, whose files were checked against the manifest."""

    header: StoreHeader
    fingerprint: str
    """Sha256 of the manifest: equal for equal codes, ids, header, layout and vectors."""
    vectors: CodeVectors | None
    """Code vectors of each codebook, the same for all channels; None if the codec is unknown."""
    _table: TrackTable
    _reader: ShardReader

    @property
    def track_ids(self) -> tuple[str, ...]:
        """Ids of all tracks, sorted."""
        return self._table.ids

    def num_frames(self, track_id: str) -> int:
        """Return the frames of a track; an unknown one raises `TokenError`."""
        return self._table.num_frames[self._position(track_id)]

    def codes(self, track_id: str) -> UInt16[np.ndarray, "K T"]:
        """Read the codes of a track from disk; an unknown one raises `TokenError`."""
        position = self._position(track_id)
        first = self._table.first_rows[position]
        stop = first + self._table.num_frames[position]
        frames = self._reader.read(first, stop, self.header.codebook_size)
        return np.ascontiguousarray(frames.T)

    def tracks(self) -> Iterator[TrackCodes]:
        """Yield every track in the order of the rows; memory holds one shard or track at a time."""
        for position, frames in self._frames():
            yield TrackCodes(self.track_ids[position], np.ascontiguousarray(frames.T))

    def load(self) -> TokenArray:
        """Read every track into memory: 2 bytes a code, 280 MB for 50 hours of mono."""
        lengths = self._table.lengths()
        starts = np.cumsum(lengths) - lengths
        values = np.empty((int(lengths.sum()), self.header.num_columns), dtype=np.uint16)
        for position, frames in self._frames():
            values[starts[position] : starts[position] + len(frames)] = frames
        return TokenArray(values, self.track_ids, starts, lengths)

    def _frames(self) -> Iterator[tuple[int, UInt16[np.ndarray, "T K"]]]:
        firsts, lengths = self._table.first_rows, self._table.num_frames
        for run in self._table.runs():
            start, stop = firsts[run[0]], firsts[run[-1]] + lengths[run[-1]]
            block = self._reader.read(start, stop, self.header.codebook_size)
            for position in run:
                first = firsts[position] - start
                yield position, block[first : first + lengths[position]]

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

    A store of another format version raises `StoreVersionError`.

    Raises:
        StoreCorruptError: If a file is missing, damaged, additional or a link; the message names
            it and the tracks it holds.
    """
    files = inspect_store(path)
    if files.damage:
        raise StoreCorruptError(
            f"{len(files.damage)} files of the store {path} are damaged: "
            f"{'; '.join(files.describe())}. "
            "Run `melodac repair`, write the store again or restore a copy"
        )
    header = read_header(path)
    table = files.table
    shape = (table.num_shards() * table.frames_per_shard, header.num_columns)
    reader = ShardReader(path / ARRAY, shape=shape, frames_per_shard=table.frames_per_shard)
    has_vectors = VECTORS in files.manifest.files
    vectors = read_vectors(path / VECTORS, header) if has_vectors else None
    return TokenStore(header, files.fingerprint, vectors, table, reader)


def read_header(path: Path) -> StoreHeader:
    """Read the header of the store at `path`; its other files may be damaged.

    Raises:
        StoreCorruptError: If it is not the header of a store.
    """
    try:
        # JSON mode, since strict Python mode would reject JSON's lists for tuples
        return StoreHeader.model_validate_json(json.dumps(read_attributes(path / ARRAY)))
    except ValidationError as error:
        raise StoreCorruptError(
            f"{path} holds no token store of this format ({error}): write the store again"
        ) from error
