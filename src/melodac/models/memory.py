"""What blocks read by cross-attention: the encoded texts of a batch, and a layer's view of them.

Slot 0 is the null vector, the slots after it are the bytes of the text. An item with a text sees
its bytes, an item without sees slot 0 and nothing else, so its softmax has one weight, exactly 1:
what it reads is the same vector whatever its batch mates' texts are and however long. Models only.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


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
