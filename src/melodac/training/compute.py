"""Precision, TF32, compiled blocks and recomputed activations.

The model itself is never changed: its blocks are replaced only while `forward` runs, so
checkpoints, EMA weights, validation and sampling do not depend on these settings. Weights,
optimizer state and EMA weights are float32 whatever the precision.
"""

import math
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]  untyped

from melodac.errors import CheckpointMismatchError, ConfigError, TrainingError
from melodac.models.block import Block
from melodac.training.config import ComputeConfig

Forward = Callable[..., Tensor]
"""Callable in place of a module's forward method."""

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_SHAPES = 64
"""Most shapes that a block may be compiled for: stages of the context times uneven batches."""


@runtime_checkable
class _Steps(Protocol):
    def step(self) -> object: ...


class _Compile(Protocol):
    """Signature of `torch.compile` as used here; its own is too wide to be type-checked."""

    def __call__(
        self,
        model: Forward,
        *,
        fullgraph: bool,
        dynamic: bool,
        recompile_limit: int,
        options: dict[str, bool],
    ) -> Forward: ...


class LossScale:
    """Dynamic factor of an fp16 loss, so that small gradients do not underflow.

    The rule is that of `torch.amp.GradScaler`, which is not used itself: it checks for overflow on
    each rank alone and skips inside `step`, whereas here the gradient norm over all ranks decides,
    and the skip is an event like any other.

    Source:
        Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2; numbers of `torch.amp.GradScaler`.
    """

    GROWTH_UPDATES = 2000
    """Updates without overflow after which the scale is doubled."""

    def __init__(self) -> None:
        self.scale = 65536.0
        self.updates_without_overflow = 0

    def overflowed(self) -> None:
        """Halve the scale; 1 is the minimum."""
        self.scale = max(1.0, self.scale / 2)
        self.updates_without_overflow = 0

    def held(self) -> None:
        """Count an update without overflow, and double the scale after enough of them."""
        self.updates_without_overflow += 1
        if self.updates_without_overflow == self.GROWTH_UPDATES:
            self.scale, self.updates_without_overflow = self.scale * 2, 0


class Compute:
    """Precision and execution of one run on one device."""

    def __init__(self, config: ComputeConfig, device: torch.device) -> None:
        """Check that the device supports the settings.

        Args:
            config: Settings.
            device: Device of the model.

        Raises:
            ConfigError: If the device does not support a setting.
        """
        self.config = config
        self.device = torch.device(device)
        self._scale = LossScale() if config.precision == "fp16" else None
        if (
            config.precision == "bf16"
            and self.device.type == "cuda"
            and not torch.cuda.is_bf16_supported(including_emulation=False)
        ):
            raise ConfigError(
                "train.compute.precision = 'bf16': this GPU has no bf16 arithmetic, use fp16 or "
                "fp32"
            )
        if config.compile and self.device.type == "cpu" and not _has_compiler():
            raise ConfigError(
                "train.compute.compile = true needs a C++ compiler and there is none: install g++ "
                "or set it to false"
            )

    @contextmanager
    def active(self) -> Generator[None]:
        """Allow TF32 on CUDA for a with-block, if configured; restore the flag afterwards."""
        if not self.config.tf32:
            yield
            return
        flags = torch.backends.cuda.matmul
        before = flags.fp32_precision
        flags.fp32_precision = "tf32"
        try:
            yield
        finally:
            flags.fp32_precision = before

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of a forward pass; the backward pass uses the same types."""
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_TYPES[self.config.precision])

    def prepare(self, model: nn.Module) -> Forward:
        """Return the training forward pass of a model, called with the model's own arguments.

        The model is not changed; it may be wrapped for several processes. Raises `ConfigError` for
        a model without blocks to compile or recompute, or with weights that are not float32.

        Args:
            model: Model on the device.
        """
        check_float32(model)
        switched = self._switched_blocks(model)

        def forward(*args: object, **kwargs: object) -> Tensor:
            with self._compiler_told(), self.autocast(), _replaced(switched):
                return model(*args, **kwargs)

        return forward

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of a part's objective, times the loss scale of fp16."""
        scaled = objective if self._scale is None else objective * self._scale.scale
        with self._compiler_told():
            scaled.backward()  # pyright: ignore[reportUnknownMemberType]  torch

    @torch.no_grad()
    def unscale(self, model: nn.Module) -> None:
        """Divide the gradients by the loss scale, once per update and before their norm."""
        if self._scale is None:
            return
        # the scale is a power of two, so the product is exact
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(1.0 / self._scale.scale)

    def lowers_scale(self, loss: float, grad_norm: float) -> bool:
        """Check if fp16 gradients overflowed; if so, halve the scale: the update must be skipped.

        Such a skip is part of fp16 and no sign of instability. False if the loss is not finite
        either, or if the scale is already 1: the stability controller decides then.

        Args:
            loss: Loss of the update.
            grad_norm: Norm of all its gradients, over all ranks, unscaled.
        """
        if self._scale is None or math.isfinite(grad_norm) or not math.isfinite(loss):
            return False
        if self._scale.scale == 1.0:
            return False
        self._scale.overflowed()
        return True

    def step(self, optimizer: _Steps) -> None:
        """Apply an accepted update."""
        optimizer.step()
        if self._scale is not None:
            self._scale.held()

    @property
    def loss_scale(self) -> float | None:
        """Present factor of an fp16 loss; None without fp16."""
        return None if self._scale is None else self._scale.scale

    def state(self) -> dict[str, float | int]:
        """Return the state that a resumed run needs, as JSON; empty without fp16."""
        return {} if self._scale is None else dict(vars(self._scale))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned.

        Raises:
            CheckpointMismatchError: If it was taken with another precision.
        """
        if state.keys() != self.state().keys():
            raise CheckpointMismatchError(
                f"the checkpoint's loss scale has {sorted(state)}, precision "
                f"{self.config.precision} has {sorted(self.state())}: resume with the precision "
                "that the run was started with"
            )
        if self._scale is not None:
            self._scale.scale = float(state["scale"])
            self._scale.updates_without_overflow = int(state["updates_without_overflow"])

    @contextmanager
    def _compiler_told(self) -> Generator[None]:
        """Shorten the compiler's errors, raised in either pass, to one line."""
        if not self.config.compile:
            yield
            return
        # imported here, as it takes a second that only compiled runs should pay
        from torch._dynamo.exc import TorchDynamoException

        try:
            yield
        except TorchDynamoException as error:
            first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            raise TrainingError(
                f"train.compute.compile: torch.compile failed with {first.strip()!r}; a process "
                "killed while it compiled may have left half a file: remove the folder "
                "TORCHINDUCTOR_CACHE_DIR (torchinductor_<user> in the temporary folder), or set "
                "train.compute.compile to false"
            ) from error

    def _switched_blocks(self, model: nn.Module) -> list[tuple[Block, Forward]]:
        if not (self.config.compile or self.config.recompute):
            return []
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        if not blocks:
            raise ConfigError(
                f"{type(model).__name__} has no block that could be compiled or recomputed: set "
                "train.compute.compile and train.compute.recompute to false"
            )
        return [(block, self._switch(block.forward)) for block in blocks]

    def _switch(self, forward: Forward) -> Forward:
        if self.config.recompute:
            forward = _recomputed(forward)
        return _compiled(forward) if self.config.compile else forward


def check_float32(model: nn.Module) -> None:
    """Check that every weight is float32, before an optimizer is built for the model.

    Raises:
        ConfigError: With the first such parameter or buffer.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ConfigError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}, every weight must be "
                "float32: keep the model as it was built, train.compute.precision makes the passes "
                "narrow"
            )


def _recomputed(forward: Forward) -> Forward:
    # the random state is restored for the second run, so dropout drops the same activations
    return partial(cast("Forward", checkpoint), forward, use_reentrant=False)


def _compiled(forward: Forward) -> Forward:
    # Blocks are compiled, not the whole model: all share one compilation, which takes an eighth of
    # the time and runs as fast. One graph per shape, as a dynamic one is slower than eager.
    # `fullgraph` makes an error of code that would silently run uncompiled; `fallback_random` keeps
    # the dropout of eager.
    return cast("_Compile", torch.compile)(
        forward,
        fullgraph=True,
        dynamic=False,
        recompile_limit=_SHAPES,
        options={"fallback_random": True},
    )


@contextmanager
def _replaced(switched: list[tuple[Block, Forward]]) -> Generator[None]:
    with ExitStack() as stack:
        for block, forward in switched:
            # an instance attribute hides the class's method, and no parameter gets another name
            vars(block)["forward"] = forward
            stack.callback(vars(block).pop, "forward")
        yield


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None
