"""The key-value cache of step-by-step generation: allocated once, filled in order, never grown.

Its position is explicit and a full cache raises: a write past the end would otherwise repeat or
drop a step without a sign.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from melodac.errors import CacheOverflowError
from melodac.models.code_tables import Tables
from melodac.models.condition import LayerMemory, Memory
from melodac.models.config import LanguageModelConfig
from melodac.models.layers import RotaryTable, build_rotary_table


class LayerCache:
    """Keys and values of one layer: of every step seen so far, and of the texts beside them."""

    def __init__(self, keys: Float[Tensor, "B G M E"], values: Float[Tensor, "B G M E"]) -> None:
        self._keys = keys
        self._values = values
        self._length = 0
        self.memory: LayerMemory | None = None
        """What the layer made of the texts, once they were read."""

    def extend(
        self, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]
    ) -> tuple[Float[Tensor, "B G M E"], Float[Tensor, "B G M E"]]:
        """Append the steps just computed; views of all steps so far, theirs included."""
        start, self._length = self._length, self._length + keys.shape[2]
        self._keys[:, :, start : self._length] = keys
        self._values[:, :, start : self._length] = values
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]


class KeyValueCache:
    """Room for the keys and values of `capacity` steps of every layer."""

    def __init__(
        self,
        config: LanguageModelConfig,
        *,
        batch_size: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        memory: Memory | None = None,
    ) -> None:
        """Allocate all of it.

        Args:
            config: Shape of the model.
            batch_size: Items.
            capacity: Steps of each item.
            dtype: Type of the model's activations.
            device: Where the model is.
            memory: Texts the items are generated from, as `LanguageModel.read` gives them; None is
                the null condition of all items.
        """
        device = torch.device(device)
        shape = (config.num_layers, batch_size, config.num_kv_heads, capacity, config.head_dim)
        keys = torch.zeros(shape, dtype=dtype, device=device)
        values = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = [LayerCache(*pair) for pair in zip(keys, values, strict=True)]
        self.capacity = capacity
        """Steps the cache can hold."""
        self.position = 0
        """Steps it holds now; the next one has this position."""
        self.memory = memory
        """Texts that every step reads."""
        self.tables: Tables | None = None
        """Rows of the codes, made with the first step. They stand for the weights that filled the
        cache, as its keys and values do, so nothing can outlive a change of weights here that does
        not there."""
        self._rotary = build_rotary_table(
            capacity, head_dim=config.head_dim, base=config.rope_base, device=device
        )

    def claim(self, num_steps: int) -> RotaryTable:
        """Move the position on by so many steps and give their rotary angles.

        Raises:
            CacheOverflowError: If fewer steps are left.
        """
        start, stop = self.position, self.position + num_steps
        if stop > self.capacity:
            raise CacheOverflowError(
                f"key-value cache is full: it holds {start} of {self.capacity} steps and cannot "
                f"take {num_steps} more: build it with a capacity of at least {stop}"
            )
        self.position = stop
        return self._rotary.steps(start, stop)
