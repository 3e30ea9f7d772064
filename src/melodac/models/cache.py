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
    """Keys and values of one layer: of all steps so far, and of the encoded text."""

    def __init__(self, keys: Float[Tensor, "B G M E"], values: Float[Tensor, "B G M E"]) -> None:
        self._keys = keys
        self._values = values
        self._length = 0
        self.memory: LayerMemory | None = None
        """Keys and values of the encoded text; set by the first call of cross-attention."""

    def extend(
        self, keys: Float[Tensor, "B G S E"], values: Float[Tensor, "B G S E"]
    ) -> tuple[Float[Tensor, "B G M E"], Float[Tensor, "B G M E"]]:
        """Append keys and values of new steps; return views of all steps so far, these included."""
        start, self._length = self._length, self._length + keys.shape[2]
        self._keys[:, :, start : self._length] = keys
        self._values[:, :, start : self._length] = values
        return self._keys[:, :, : self._length], self._values[:, :, : self._length]


class KeyValueCache:
    """KV cache of all layers, with room for `capacity` steps."""

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
        """Allocate the whole cache.

        Args:
            config: Shape of the model.
            batch_size: Items.
            capacity: Steps of each item.
            dtype: Type of the model's activations.
            device: Device of the model.
            memory: Encoded texts of the items, as `LanguageModel.read` returns them; None is the
                null condition of all items.
        """
        device = torch.device(device)
        shape = (config.num_layers, batch_size, config.num_kv_heads, capacity, config.head_dim)
        # one tensor for all layers: each `LayerCache` holds a view of it
        keys = torch.zeros(shape, dtype=dtype, device=device)
        values = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = [LayerCache(*pair) for pair in zip(keys, values, strict=True)]
        self.capacity = capacity
        """Steps the cache can hold."""
        self.position = 0
        """Steps it holds now, which is also the position of the next one."""
        self.memory = memory
        """Encoded texts that every step attends to."""
        self.tables: Tables | None = None
        """Rows of the codes, made with the first step.

        They belong to the weights that filled the cache, as its keys and values do: after a change
        of weights the whole cache is stale, so these need no check of their own.
        """
        self._rotary = build_rotary_table(
            capacity, head_dim=config.head_dim, base=config.rope_base, device=device
        )

    def claim(self, num_steps: int) -> RotaryTable:
        """Advance the position by `num_steps` and return the rotary angles of those steps.

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
