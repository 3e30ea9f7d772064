"""`Condition`: the texts that a batch is conditioned on; `Memory`: those texts, encoded.

A text is its UTF-8 bytes. A row without bytes is the null condition, the only one: training drops
a condition by emptying its row, and guidance asks for the null condition in the same way.

Slot 0 of the encoded texts is the null vector, the slots after it are the bytes. An item with a
text attends to its bytes only, an item without one to slot 0 only. There its softmax has a single
weight, exactly 1, so it reads the same vector whatever the other texts of the batch are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from melodac.errors import ModelError
from melodac.models.config import BYTE_ROWS


class Memory(NamedTuple):
    """Encoded texts that cross-attention reads."""

    states: Float[Tensor, "B M D"]
    seen: Bool[Tensor, "B M"]
    """Slots that an item attends to; at least one."""


class LayerMemory(NamedTuple):
    """Cross-attention keys and values of one layer."""

    keys: Float[Tensor, "B G M E"]
    values: Float[Tensor, "B G M E"]
    seen: Bool[Tensor, "B M"]


PADDING = BYTE_ROWS - 1
"""Value of every cell after the end of a text."""

_GRAIN = 64
"""Text widths are multiples of this, which limits the number of distinct shapes."""


class Condition(NamedTuple):
    """The texts of a batch."""

    text: Int64[Tensor, "B Y"]
    """Bytes, then `PADDING`; a row of padding only is an item without a text."""

    @property
    def is_null(self) -> Bool[Tensor, " B"]:
        """Items without a text, which are under the null condition."""
        return (self.text == PADDING).all(dim=1)

    def to(self, device: torch.device | str) -> "Condition":
        """Return the texts on a device."""
        return Condition(self.text.to(device))

    def take(self, items: slice) -> "Condition":
        """Return the texts of some items of the batch."""
        return Condition(self.text[items])

    def dropped(self) -> "Condition":
        """Return the null condition for as many items."""
        return Condition(torch.full_like(self.text, PADDING))

    def repeated(self, count: int) -> "Condition":
        """Return the batch repeated `count` times."""
        return Condition(self.text.repeat(count, 1))


def no_texts(num_items: int, device: torch.device | str = "cpu") -> Condition:
    """Return the null condition of a batch."""
    return Condition(torch.full((num_items, 1), PADDING, device=device))


def encode_texts(texts: Sequence[str | None], max_bytes: int) -> Condition:
    """Encode one text per row; None and the empty text become the null condition.

    Args:
        texts: Text of each item.
        max_bytes: `text_bytes` of the model.

    Raises:
        ModelError: If a text is longer; texts are never cut.
    """
    rows = [(text or "").encode("utf-8") for text in texts]
    longest = max(map(len, rows), default=0)
    if longest > max_bytes:
        raise ModelError(
            f"a text has {longest} bytes, the model reads {max_bytes}: shorten it"
            if max_bytes
            else "this model reads no text: train one with train.condition=tags"
        )
    # -(-a // b) rounds up
    width = max(1, min(max_bytes, -(-longest // _GRAIN) * _GRAIN))
    text = torch.full((len(rows), width), PADDING)
    for row, data in zip(text, rows, strict=True):
        row[: len(data)] = torch.tensor(list(data), dtype=torch.long)
    return Condition(text)
