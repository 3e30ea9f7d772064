"""What a token store holds: `StoreHeader`, `TrackCodes` of one track, and the vectors of its codes.

A track is a table of columns by frames. Columns are codebooks, channel after channel; which of them
a model reads, and in which order, is decided at read time and not here.

The vectors say what each code sounds like: one file with one tensor of codebooks x codes x
dimensions, as `Codec.code_vectors` gives it. All channels share it, since one codec encoded each of
them. With it nothing has to load a codec to train or to run a language model.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt16
from pydantic import Field, PositiveInt, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]  untyped paths

from melodac.config import Section
from melodac.errors import StoreCorruptError, TokenError
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


_TENSOR = "code_vectors"

CodeVectors = Float32[np.ndarray, "K U Z"]


def write_vectors(path: Path, vectors: CodeVectors, header: StoreHeader) -> None:
    """Write the vectors of a store.

    Raises:
        TokenError: If they do not fit the store's codes.
    """
    problem = _find_misfit(vectors, header)
    if problem:
        raise TokenError(f"the code vectors of codec {header.codec!r} cannot be stored: {problem}")
    save_file({_TENSOR: np.ascontiguousarray(vectors)}, path)


def read_vectors(path: Path, header: StoreHeader) -> CodeVectors:
    """Read the vectors of a store.

    Raises:
        StoreCorruptError: If the file holds something else, or they do not fit the store's codes.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreCorruptError(
            f"{path} cannot be read ({error}): write the store again"
        ) from error
    if set(tensors) != {_TENSOR}:
        raise StoreCorruptError(
            f"{path} holds {sorted(tensors)}, expected {_TENSOR!r} alone: write the store again"
        )
    problem = _find_misfit(tensors[_TENSOR], header)
    if problem:
        raise StoreCorruptError(f"{path}: {problem}; write the store again")
    return tensors[_TENSOR]


def _find_misfit(vectors: np.ndarray, header: StoreHeader) -> str:
    """Say what is wrong with vectors for the codes of a store; nothing if they fit."""
    num_codebooks, num_codes = max(header.codebooks), header.codebook_size
    if vectors.dtype != np.float32 or vectors.ndim != 3 or not vectors.size:
        return (
            f"expected float32 codebooks x codes x dimensions, got {vectors.dtype} {vectors.shape}"
        )
    if vectors.shape[0] < num_codebooks or vectors.shape[1] != num_codes:
        return (
            f"{vectors.shape[0]} codebooks of {vectors.shape[1]} vectors for at least "
            f"{num_codebooks} codebooks of {num_codes} codes"
        )
    return "" if bool(np.isfinite(vectors).all()) else "some numbers are not finite"
