"""Codes of many tracks in memory, as one table of frames; built by the store, read by batches.

Tracks are row ranges of one shared array, so that choosing a split copies nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt16

from melodac.errors import TokenError


@dataclass(frozen=True)
class TokenArray:
    """Table of the frames of all tracks: one row per frame, one column per codebook and channel."""

    values: UInt16[np.ndarray, "T K"]
    """Codes; columns of channel 0 first, then those of channel 1."""
    track_ids: tuple[str, ...]
    """Ids of the tracks, in the order that windows number them."""
    starts: Int64[np.ndarray, " B"]
    """First row of each track."""
    lengths: Int64[np.ndarray, " B"]
    """Frames of each track."""

    def codes(self, track: int) -> UInt16[np.ndarray, "T K"]:
        """Return the frames of one track, given by its position in `track_ids`."""
        start = int(self.starts[track])
        return self.values[start : start + int(self.lengths[track])]

    def select(self, track_ids: Sequence[str]) -> "TokenArray":
        """Return the given tracks only, in the given order, without a copy of the codes.

        Raises:
            TokenError: If a track is not in this array.
        """
        positions = {track_id: position for position, track_id in enumerate(self.track_ids)}
        missing = [track_id for track_id in track_ids if track_id not in positions]
        if missing:
            raise TokenError(
                f"{len(missing)} tracks are not in the store, the first is {missing[0]!r}: "
                "encode them, or index the store that was encoded"
            )
        rows = np.array([positions[track_id] for track_id in track_ids], dtype=np.int64)
        return TokenArray(self.values, tuple(track_ids), self.starts[rows], self.lengths[rows])


def array_of_tracks(
    tracks: Sequence[tuple[str, UInt16[np.ndarray, "... K"]]],
) -> TokenArray:
    """Concatenate tracks that are already in memory.

    Raises:
        TokenError: If there is no track.
    """
    if not tracks:
        raise TokenError("an array of tracks needs at least one track, got none")
    lengths = np.array([len(codes) for _, codes in tracks], dtype=np.int64)
    values = np.concatenate([codes for _, codes in tracks])
    ids = tuple(track_id for track_id, _ in tracks)
    return TokenArray(values, ids, np.cumsum(lengths) - lengths, lengths)
