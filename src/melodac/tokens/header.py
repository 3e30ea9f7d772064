"""What a token store holds: `StoreHeader`, and `TrackCodes`, the codes of one track.

A track is a table of columns by frames. Columns are codebooks, channel after channel; which of them
a model reads, and in which order, is decided at read time and not here.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt16
from pydantic import Field, PositiveInt, model_validator

from melodac.config import Section
from melodac.tokens.vocabulary import CODEBOOK_SIZE

FORMAT_VERSION = 2
"""Version of the store's layout; another one is refused, never guessed at.

2: channels named, codebooks counted per channel, tracks placed by their ids. 1 had neither.
"""

Channel = Literal["mono", "left", "right", "mid", "side"]
"""A signal that was encoded by itself; mid is (left + right) / 2, side is (left - right) / 2."""

CHANNEL_SETS: tuple[tuple[Channel, ...], ...] = (
    ("mono",),
    ("left", "right"),
    ("mid", "side"),
    ("left", "right", "mid", "side"),
)
"""Every combination a store may hold."""


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
    codebook_size: Annotated[int, Field(ge=1, le=CODEBOOK_SIZE)]
    channels: tuple[Channel, ...]
    """Signals of every track; the columns of the first come first."""
    codebooks: tuple[PositiveInt, ...]
    """Codebooks of each channel."""
    target_lufs: float | None
    """Loudness to which the audio was brought before it was encoded; None if nobody knows."""

    @model_validator(mode="after")
    def _known_channels(self) -> "StoreHeader":
        if self.channels not in CHANNEL_SETS:
            allowed = "; ".join(", ".join(channels) for channels in CHANNEL_SETS)
            raise ValueError(f"channels are {', '.join(self.channels)}, allowed are {allowed}")
        if len(self.codebooks) != len(self.channels):
            raise ValueError(
                f"codebooks of {len(self.codebooks)} channels for {len(self.channels)} channels"
            )
        return self

    @property
    def num_channels(self) -> int:
        """How many signals each track has."""
        return len(self.channels)

    @property
    def num_columns(self) -> int:
        """Codes of one frame: the codebooks of all channels."""
        return sum(self.codebooks)

    def columns(self, channel: Channel) -> slice:
        """Where the codebooks of a channel lie; an unknown one is a `ValueError`."""
        position = self.channels.index(channel)
        start = sum(self.codebooks[:position])
        return slice(start, start + self.codebooks[position])


class TrackCodes(NamedTuple):
    """Codes of one track."""

    id: str
    codes: UInt16[np.ndarray, "K T"]
    """All columns, channel after channel."""
