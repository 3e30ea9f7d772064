"""`Condition`: what a batch is asked to sound like, as text; `Memory`: that text as blocks read it.

A text is its UTF-8 bytes. A row without a byte is the null condition, the one and only: training
drops a condition by making its row so, and guidance asks for it in the same way.

Slot 0 of the encoded texts is the null vector, the slots after it are the bytes. An item with a
text sees its bytes, an item without sees slot 0 and nothing else, so its softmax has one weight,
exactly 1: what it reads is the same vector whatever its batch mates' texts are and however long.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from melodac.errors import ModelError
from melodac.models.config import BYTE_ROWS


class Memory(NamedTuple):
    """Encoded texts."""

    states: Float[Tensor, "B M D"]
    seen: Bool[Tensor, "B M"]
    """Slots that an item reads: at least one."""


class LayerMemory(NamedTuple):
    """Keys and values that one layer makes of a memory."""

    keys: Float[Tensor, "B G M E"]
    values: Float[Tensor, "B G M E"]
    seen: Bool[Tensor, "B M"]


PADDING = BYTE_ROWS - 1
"""Stands in every cell after the end of a text."""

_GRAIN = 64
"""Widths are multiples of it, so that few shapes occur."""


class Condition(NamedTuple):
    """The texts of a batch."""

    text: Int64[Tensor, "B Y"]
    """Bytes, then `PADDING`; a row of padding alone is an item without a text."""

    @property
    def is_null(self) -> Bool[Tensor, " B"]:
        """Items without a text."""
        return (self.text == PADDING).all(dim=1)

    def to(self, device: torch.device | str) -> "Condition":
        """The same on a device."""
        return Condition(self.text.to(device))

    def take(self, items: slice) -> "Condition":
        """Some items of the batch."""
        return Condition(self.text[items])

    def dropped(self) -> "Condition":
        """As many items, none with a text."""
        return Condition(torch.full_like(self.text, PADDING))

    def repeated(self, count: int) -> "Condition":
        """The whole batch `count` times."""
        return Condition(self.text.repeat(count, 1))


def no_texts(num_items: int, device: torch.device | str = "cpu") -> Condition:
    """The null condition of a batch."""
    return Condition(torch.full((num_items, 1), PADDING, device=device))


def encode_texts(texts: Sequence[str | None], max_bytes: int) -> Condition:
    """One row a text; None and the empty text are the null condition.

    Args:
        texts: What each item is asked to sound like.
        max_bytes: `text_bytes` of the model that is to read it.

    Raises:
        ModelError: If a text has more bytes; nothing is ever cut.
    """
    rows = [(text or "").encode("utf-8") for text in texts]
    longest = max(map(len, rows), default=0)
    if longest > max_bytes:
        raise ModelError(
            f"a text has {longest} bytes, the model reads {max_bytes}: shorten it"
            if max_bytes
            else "this model reads no text: train one with train.condition=tags"
        )
    width = max(1, min(max_bytes, -(-longest // _GRAIN) * _GRAIN))
    text = torch.full((len(rows), width), PADDING)
    for row, data in zip(text, rows, strict=True):
        row[: len(data)] = torch.tensor(list(data), dtype=torch.long)
    return Condition(text)
