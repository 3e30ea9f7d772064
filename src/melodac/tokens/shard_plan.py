"""Which tracks share a shard: follows from ids and lengths, and a change stays where it is.

Tracks hang in a binary tree by the bits of their ids' hashes. A branch of more frames than a shard
holds is parted by the next bit, and what remains whole is one shard. So the tracks of a shard are
those whose hashes begin alike, and one more or one less changes that shard alone, or parts it, or
joins it with its twin; it never pushes later tracks on.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

HASH_BITS = 256


@dataclass(frozen=True)
class Leaf:
    """Tracks that lie together, from the start of a shard on; the rest of it stays empty."""

    track_ids: tuple[str, ...]
    """Sorted, which is the order of their rows."""
    first_shard: int
    num_shards: int
    """More than one only for a single track that is longer than a shard."""


@dataclass(frozen=True)
class _Hashed:
    bits: int
    track_id: str
    num_frames: int


def plan_shards(lengths: Mapping[str, int], frames_per_shard: int) -> list[Leaf]:
    """Place tracks in shards, whatever order they are given in.

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
