"""The array of a token store: frames in a few large zarr v3 files. Only this module uses zarr.

Rows are frames, columns are codebooks, channel after channel. A shard is written once, whole, by
one writer; its bytes depend on its own frames and on no other shard.

Ids and lengths alone decide which tracks share a shard, so a change stays local. Tracks are the
leaves of a binary tree over the bits of their ids' hashes. A branch with more frames than a shard
is split by the next bit; a branch that fits is one shard. So the tracks of a shard share a prefix
of their hashes, and adding or removing one changes that shard only, or splits it, or merges it with
its sibling; it never moves later tracks.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

# zarr's signatures name types of optional packages that are not installed
# pyright: reportUnknownMemberType=false
import numpy as np
import zarr
from jaxtyping import UInt16
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from melodac.errors import StoreCorruptError, TokenError
from melodac.tokens.vocabulary import FILL

HASH_BITS = 256


@dataclass(frozen=True)
class Leaf:
    """Tracks that lie together, from the start of a shard on; the rest of the shard is empty."""

    track_ids: tuple[str, ...]
    """Ids in sorted order, which is the order of their rows."""
    first_shard: int
    num_shards: int
    """Number of shards; above 1 only for a single track longer than a shard."""


@dataclass(frozen=True)
class _Hashed:
    bits: int
    track_id: str
    num_frames: int


def plan_shards(lengths: Mapping[str, int], frames_per_shard: int) -> list[Leaf]:
    """Assign tracks to shards, independently of the order in which they are given.

    Args:
        lengths: Frames of every track, by its id.
        frames_per_shard: Frames that a shard holds.
    """
    tracks = [_Hashed(_hash(name), name, frames) for name, frames in lengths.items()]
    leaves: list[Leaf] = []
    first_shard = 0
    for leaf in _split(tracks, frames_per_shard, HASH_BITS - 1):
        num_frames = sum(track.num_frames for track in leaf)
        num_shards = -(-num_frames // frames_per_shard)
        ids = tuple(sorted(track.track_id for track in leaf))
        leaves.append(Leaf(ids, first_shard, num_shards))
        first_shard += num_shards
    return leaves


def _split(tracks: Sequence[_Hashed], capacity: int, bit: int) -> Iterator[Sequence[_Hashed]]:
    if len(tracks) <= 1 or sum(track.num_frames for track in tracks) <= capacity:
        if tracks:
            yield tracks
        return
    for side in (0, 1):
        yield from _split([t for t in tracks if t.bits >> bit & 1 == side], capacity, bit - 1)


def _hash(track_id: str) -> int:
    return int.from_bytes(hashlib.sha256(track_id.encode()).digest())


CHUNK_FRAMES = 4096
"""Frames compressed together, the least that a read inside a shard decodes."""

MAX_FRAMES_PER_SHARD = 2**26
"""Largest shard, so that a foreign store cannot exhaust the memory."""

METADATA = "zarr.json"
"""File of the array's shape, codecs and attributes."""


def shard_name(shard: int) -> str:
    """Return the path of a shard inside the array's folder."""
    return f"c/{shard}/0"


def check_frames_per_shard(frames_per_shard: int) -> None:
    """Check that a shard consists of whole chunks.

    Raises:
        TokenError: If it does not, or is too large.
    """
    is_whole = frames_per_shard % CHUNK_FRAMES == 0 or frames_per_shard < CHUNK_FRAMES
    if not (is_whole and 1 <= frames_per_shard <= MAX_FRAMES_PER_SHARD):
        raise TokenError(
            f"frames_per_shard is {frames_per_shard}: allowed are multiples of {CHUNK_FRAMES} "
            f"up to {MAX_FRAMES_PER_SHARD}, or less than {CHUNK_FRAMES} for a small store"
        )


class ShardWriter:
    """Writer of whole shards of an array of known size, in any order."""

    def __init__(
        self,
        folder: Path,
        *,
        shape: tuple[int, int],
        frames_per_shard: int,
        attributes: Mapping[str, object],
    ) -> None:
        """Create an empty array of rows and columns in a new folder."""
        self._folder = folder
        self._block = np.empty((frames_per_shard, shape[1]), dtype=np.uint16)
        self._array = zarr.create_array(
            LocalStore(folder),
            shape=shape,
            dtype="uint16",
            chunks=(min(frames_per_shard, CHUNK_FRAMES), shape[1]),
            shards=(frames_per_shard, shape[1]),
            compressors=ZstdCodec(level=0, checksum=True),
            fill_value=FILL,
            zarr_format=3,
            attributes=cast("dict[str, Any]", dict(attributes)),
        )

    def path(self, shard: int) -> Path:
        """Return the path of a shard, which need not exist yet."""
        return self._folder / shard_name(shard)

    def write(self, shard: int, frames: UInt16[np.ndarray, "T K"]) -> None:
        """Write a shard from its first row on; rows beyond the given frames stay empty."""
        self._block[: len(frames)] = frames
        self._block[len(frames) :] = FILL
        first = shard * len(self._block)
        self._array[first : first + len(self._block)] = self._block


class ShardReader:
    """Reader of frames of an array whose layout was checked."""

    def __init__(self, folder: Path, *, shape: tuple[int, int], frames_per_shard: int) -> None:
        """Check the layout and open the array.

        Raises:
            StoreCorruptError: If dtype, shape, codecs or fill value are not those of a store.
        """
        found = _read_metadata(folder)
        expected = _expected_metadata(shape, frames_per_shard)
        wrong = [name for name, value in expected.items() if found.get(name) != value]
        if wrong:
            raise StoreCorruptError(
                f"{folder / METADATA} does not describe a token array: {wrong[0]} is "
                f"{found.get(wrong[0])!r}, expected {expected[wrong[0]]!r}; write the store again"
            )
        self._folder = folder
        self._frames_per_shard = frames_per_shard
        self._array = zarr.open_array(LocalStore(folder, read_only=True), mode="r", zarr_format=3)

    def read(self, first: int, stop: int, num_codes: int) -> UInt16[np.ndarray, "T K"]:
        """Read the frames from `first` to `stop`, each checked to be a code below `num_codes`.

        Raises:
            StoreCorruptError: If a shard was lost or damaged after the store was opened.
        """
        shard = shard_name(first // self._frames_per_shard)
        try:
            frames = np.asarray(self._array[first:stop], dtype=np.uint16)
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreCorruptError(
                f"frames {first} to {stop} of {self._folder} cannot be read, from shard {shard} "
                f"on ({error}): write the store again"
            ) from error
        if frames.size and int(frames.max()) >= num_codes:
            raise StoreCorruptError(
                f"frames {first} to {stop} of {self._folder} hold {int(frames.max())}, codes are "
                f"below {num_codes}: a shard from {shard} on is lost; write the store again"
            )
        return frames


def read_attributes(folder: Path) -> dict[str, object]:
    """Return the attributes of the array, from its metadata."""
    attributes = _read_metadata(folder).get("attributes")
    return cast("dict[str, object]", attributes) if isinstance(attributes, dict) else {}


def _read_metadata(folder: Path) -> dict[str, object]:
    try:
        metadata: object = json.loads((folder / METADATA).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreCorruptError(
            f"{folder / METADATA} cannot be read ({error}): write the store again"
        ) from error
    return cast("dict[str, object]", metadata) if isinstance(metadata, dict) else {}


def _expected_metadata(shape: tuple[int, int], frames_per_shard: int) -> dict[str, object]:
    to_bytes = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 0, "checksum": True}}
    sharding = {
        "chunk_shape": [min(frames_per_shard, CHUNK_FRAMES), shape[1]],
        "codecs": [to_bytes, zstd],
        "index_codecs": [to_bytes, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint16",
        "fill_value": FILL,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [frames_per_shard, shape[1]]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "storage_transformers": [],
    }
