"""Layout: the columns of a store that a model reads, their order, and the way back to channels.

    concatenated   left 0 .. left 8, right 0 .. right 8
    interleaved    left 0, right 0, left 1, right 1 ..
    mid_side       mid 0 .. mid 8, side 0 .. side 8; left = mid + side, right = mid - side

Chosen when codes are read, so one store serves every layout whose channels it holds. A mono store
has one order whatever the layout. The delay pattern follows the same order.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Shaped
from pydantic import NonNegativeInt, model_validator

from melodac.config import Section
from melodac.errors import ConfigError, TokenError
from melodac.tokens.array import TokenArray
from melodac.tokens.store.header import Channel, StoreHeader

LayoutName = Literal["concatenated", "interleaved", "mid_side"]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)

_CHANNELS: Mapping[str, tuple[Channel, Channel]] = {
    "concatenated": ("left", "right"),
    "interleaved": ("left", "right"),
    "mid_side": ("mid", "side"),
}


class Column(Section):
    """One codebook of one channel."""

    channel: Channel
    codebook: NonNegativeInt

    def __str__(self) -> str:
        return f"{self.channel} {self.codebook}"


class Layout(Section):
    """Columns that a model reads, in its order."""

    name: Literal["mono", "concatenated", "interleaved", "mid_side"]
    columns: tuple[Column, ...]

    @model_validator(mode="after")
    def _whole_channels(self) -> "Layout":
        for channel in self.channels:
            found = [column.codebook for column in self.columns if column.channel == channel]
            if found != list(range(len(found))):
                raise ValueError(f"channel {channel} has codebooks {found}, not each once in order")
        return self

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels that are read, each once."""
        return tuple(dict.fromkeys(column.channel for column in self.columns))

    @property
    def codebooks(self) -> tuple[int, ...]:
        """Codebook, within its channel, of each column."""
        return tuple(column.codebook for column in self.columns)

    @property
    def num_codebooks(self) -> int:
        """Codebooks of one channel, the longest if they differ."""
        return max(self.codebooks) + 1

    def names(self) -> tuple[str, ...]:
        """Return a name for each column: the codebook, and its channel if there are two."""
        if len(self.channels) == 1:
            return tuple(str(column.codebook) for column in self.columns)
        return tuple(str(column) for column in self.columns)

    def positions(self, header: StoreHeader) -> list[int]:
        """Return the store's column index of each column, in the order of the model.

        Raises:
            ConfigError: If the store lacks a column.
        """
        held = dict(zip(header.channels, header.codebooks, strict=True))
        if any(column.codebook >= held.get(column.channel, 0) for column in self.columns):
            raise ConfigError(_describe_lack(self.name, header))
        return [header.columns(column.channel).start + column.codebook for column in self.columns]

    def read(self, array: TokenArray, header: StoreHeader) -> TokenArray:
        """Return the columns of the model, in its order; no copy if the order is the store's."""
        positions = self.positions(header)
        if positions == list(range(array.values.shape[1])):
            return array
        values = np.ascontiguousarray(array.values[:, positions])
        return TokenArray(values, array.track_ids, array.starts, array.lengths)

    def split_channels(self, codes: Shaped[Any, "K T"]) -> dict[Channel, Shaped[Any, "_ T"]]:
        """Split the codes of a model by channel, the codebooks of each in order.

        Args:
            codes: Array or tensor with one row per column.

        Raises:
            TokenError: If the number of rows is another.
        """
        if len(codes) != len(self.columns):
            raise TokenError(
                f"codes of {len(codes)} rows, layout {self.name} has {len(self.columns)} columns"
            )
        return {
            channel: codes[
                [row for row, column in enumerate(self.columns) if column.channel == channel]
            ]
            for channel in self.channels
        }


def choose_layout(name: LayoutName, header: StoreHeader) -> Layout:
    """Choose the order in which a model reads a store.

    Args:
        name: Order of the columns of stereo; mono has only one.
        header: Header of the store.

    Raises:
        ConfigError: If the store lacks a channel of the layout.
    """
    if header.channels == ("mono",):
        return Layout(name="mono", columns=_columns_of("mono", header))
    first, second = _CHANNELS[name]
    if not {first, second} <= set(header.channels):
        raise ConfigError(_describe_lack(name, header))
    columns = (*_columns_of(first, header), *_columns_of(second, header))
    if name == "interleaved":
        # stable: within a codebook the channels keep their order; if one has fewer codebooks, the
        # other goes on alone
        columns = tuple(sorted(columns, key=lambda column: column.codebook))
    return Layout(name=name, columns=columns)


def mix_channels(
    sounds: Mapping[Channel, Float32[np.ndarray, " N"]],
) -> Float32[np.ndarray, "C N"]:
    """Return mono, or left and right, from the sound of each channel of a layout.

    Raises:
        TokenError: If the channels are not those of a layout.
    """
    channels = set(sounds)
    if channels == {"mono"}:
        return sounds["mono"][None]
    if channels == {"left", "right"}:
        return np.stack([sounds["left"], sounds["right"]])
    if channels == {"mid", "side"}:
        mid, side = sounds["mid"], sounds["side"]
        return np.stack([mid + side, mid - side])
    raise TokenError(f"sound of {', '.join(sorted(channels))} is neither mono nor stereo")


def _columns_of(channel: Channel, header: StoreHeader) -> tuple[Column, ...]:
    held = header.columns(channel)
    return tuple(Column(channel=channel, codebook=k) for k in range(held.stop - held.start))


def _describe_lack(name: str, header: StoreHeader) -> str:
    held = set(header.channels)
    possible = [layout for layout in LAYOUT_NAMES if set(_CHANNELS[layout]) <= held]
    needed = "mid_side" if name == "mid_side" else "left_right"
    instead = f", or train.layout: {' or '.join(possible)}" if possible else ""
    return (
        f"train.layout = {name!r}: the store holds {', '.join(header.channels)} with "
        f"{', '.join(map(str, header.codebooks))} codebooks; set encode.stereo: {needed} or both"
        f"{instead}"
    )
