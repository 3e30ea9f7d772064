"""Content of a token store: `StoreHeader`, the `TrackCodes` of one track, and the code vectors.

A track is a table of columns by frames. Columns are codebooks, channel after channel; a model
chooses columns and their order when it reads, not here.

The code vectors are in one file with one tensor of codebooks x codes x dimensions, as
`Codec.code_vectors` returns it. All channels share them, since one codec encoded each of them. With
them neither training nor a language model has to load a codec.
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
"""Version of the store's layout; another version is refused, never guessed.

2: channels named, codebooks counted per channel, tracks placed by their ids. 1 had neither.
"""

Channel = Literal["mono", "left", "right", "mid", "side"]
"""Signal that was encoded by itself; mid is (left + right) / 2, side is (left - right) / 2."""

CHANNEL_SETS: tuple[tuple[Channel, ...], ...] = (
    ("mono",),
    ("left", "right"),
    ("mid", "side"),
    ("left", "right", "mid", "side"),
)
"""Combinations of channels that a store may hold."""


class StoreHeader(Section):
    """Codec and shape of the codes of a store."""

    format_version: int = FORMAT_VERSION
    codec: str
    """Name of the codec."""
    weights_sha256: str
    """Hash of the codec's weights; the same code means another sound under other weights."""
    sample_rate_hz: PositiveInt
    hop: PositiveInt
    """Audio samples per frame."""
    codebook_size: Annotated[int, Field(ge=1, le=CODEBOOK_SIZE)]
    channels: tuple[Channel, ...]
    """Signals of every track; the columns of the first channel come first."""
    codebooks: tuple[PositiveInt, ...]
    """Codebooks of each channel."""
    target_lufs: float | None
    """Loudness of the encoded audio, in LUFS; None if unknown."""

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
        """Number of signals of each track."""
        return len(self.channels)

    @property
    def num_columns(self) -> int:
        """Number of codes of one frame: the codebooks of all channels."""
        return sum(self.codebooks)

    def columns(self, channel: Channel) -> slice:
        """Return the columns of a channel; an unknown channel raises `ValueError`."""
        position = self.channels.index(channel)
        start = sum(self.codebooks[:position])
        return slice(start, start + self.codebooks[position])


class TrackCodes(NamedTuple):
    """Codes of one track."""

    id: str
    codes: UInt16[np.ndarray, "K T"]
    """Codes of every column, channel after channel."""


_TENSOR = "code_vectors"

CodeVectors = Float32[np.ndarray, "K U Z"]


def write_vectors(path: Path, vectors: CodeVectors, header: StoreHeader) -> None:
    """Write the code vectors of a store.

    Raises:
        TokenError: If they do not fit the store's codes.
    """
    problem = _find_misfit(vectors, header)
    if problem:
        raise TokenError(f"the code vectors of codec {header.codec!r} cannot be stored: {problem}")
    save_file({_TENSOR: np.ascontiguousarray(vectors)}, path)


def read_vectors(path: Path, header: StoreHeader) -> CodeVectors:
    """Read the code vectors of a store.

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
    """Return the reason why vectors do not fit the codes of a store; empty if they fit."""
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
