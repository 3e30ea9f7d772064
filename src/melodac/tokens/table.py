"""`TrackTable`, the file tracks.json of a store: which rows of the array belong to which track.

Only the store's modules import it.
"""

from typing import Annotated

import numpy as np
from jaxtyping import Int64
from pydantic import Field, model_validator

from melodac.config import Section
from melodac.tokens.shards import MAX_FRAMES_PER_SHARD

_MAX_ROWS = 2**48
"""Far more than there is music, far less than overflows."""

Row = Annotated[int, Field(ge=0, le=_MAX_ROWS)]
Length = Annotated[int, Field(ge=1, le=_MAX_ROWS)]


class TrackTable(Section):
    """Ids, sorted, and where the frames of each lie; rows that no track has are never read."""

    ids: tuple[str, ...]
    first_rows: tuple[Row, ...]
    num_frames: tuple[Length, ...]
    frames_per_shard: Annotated[int, Field(ge=1, le=MAX_FRAMES_PER_SHARD)]

    @model_validator(mode="after")
    def _rows_of_its_own(self) -> "TrackTable":
        if not len(self.ids) == len(self.first_rows) == len(self.num_frames) > 0:
            raise ValueError("every track needs an id, a first row and a length, and one must be")
        if any(one >= other for one, other in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError("every track needs an id of its own, in sorted order")
        order = self.row_order()
        ends = (self.starts() + self.lengths())[order]
        if bool((ends[:-1] > self.starts()[order][1:]).any()):
            raise ValueError("every track needs rows of its own")
        return self

    def starts(self) -> Int64[np.ndarray, " B"]:
        """First row of each track."""
        return np.array(self.first_rows, dtype=np.int64)

    def lengths(self) -> Int64[np.ndarray, " B"]:
        """Frames of each track."""
        return np.array(self.num_frames, dtype=np.int64)

    def row_order(self) -> Int64[np.ndarray, " B"]:
        """Positions of the tracks in the order of their rows."""
        return np.argsort(self.starts(), kind="stable")

    def num_shards(self) -> int:
        """Shards up to the last one that holds a frame."""
        return -(-int((self.starts() + self.lengths()).max()) // self.frames_per_shard)

    def tracks_in(self, shard: int) -> tuple[str, ...]:
        """Ids of the tracks that have a frame in a shard."""
        starts = self.starts()
        low, high = shard * self.frames_per_shard, (shard + 1) * self.frames_per_shard
        inside = np.flatnonzero((starts < high) & (starts + self.lengths() > low))
        return tuple(self.ids[int(position)] for position in inside)

    def runs(self) -> list[list[int]]:
        """Positions of tracks whose rows follow one another inside one shard, in row order.

        Reading a run at once decodes nothing twice; a track longer than a shard is a run alone.
        """
        runs: list[list[int]] = []
        end = -1
        for position in (int(row) for row in self.row_order()):
            first = self.first_rows[position]
            if first != end or first % self.frames_per_shard == 0:
                runs.append([])
            runs[-1].append(position)
            end = first + self.num_frames[position]
        return runs
