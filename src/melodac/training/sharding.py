"""A model whose every parameter is cut in shares, one a process (FSDP2), and its whole again.

Shares are cut along the first axis, block by block. On disk nothing is cut: what is saved is
gathered first and what is read is cut anew, so a checkpoint fits any number of processes and either
sharding. Every function here that gathers is called by all processes alike.
"""

import copy
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from melodac.errors import CheckpointMismatchError
from melodac.models.block import Block


def shard(model: nn.Module, world_size: int) -> None:
    """Cut the parameters of a model in place; each block is gathered only while it computes.

    Gradients of the processes are added, never averaged: what is backpropagated is already divided
    by the size of the whole update.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size,))
    for module in [*(m for m in model.modules() if isinstance(m, Block)), model]:
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(enable=True)
    # The logits are a view of what the head returns. Writing into it would lose gradients, which is
    # what torch warns of each time; nothing here writes into logits.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `shard` cut this model."""
    return isinstance(model, FSDPModule)


def build_skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model that is not yet cut, without the memory of its parameters."""
    return copy.deepcopy(model).to("meta")


@contextmanager
def filled(skeleton: nn.Module, model: nn.Module) -> Generator[nn.Module]:
    """The skeleton with the parameters of a sharded model, whole, while the block runs.

    It is a plain module: what is done with it needs no other process.
    """
    device = next(model.parameters()).device
    whole = skeleton.to_empty(device=device)
    with torch.no_grad():
        for (_, target), value in zip(_tensors(whole), gathered(model), strict=True):
            target.copy_(value)
    try:
        yield whole.train(model.training)
    finally:
        for weight in whole.parameters():
            weight.grad = None
        whole.to("meta")


def gathered(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and buffer of a sharded model, whole, one at a time."""
    for _, tensor in _tensors(model):
        yield whole_tensor(tensor)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or the whole of which it is this process's share."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def own_share(found: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as `like` is; needs no other process."""
    if not isinstance(like, DTensor):
        return found
    value = found.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], *, misfit: str, remedy: str
) -> None:
    """Put whole tensors into others of the same names, each cut as it is; all of them or none.

    Args:
        wanted: What is to be filled.
        found: What a checkpoint holds.
        misfit: What does not fit what, as a sentence.
        remedy: What to do then.

    Raises:
        CheckpointMismatchError: If a tensor is missing, left over or of another shape.
    """
    differing = sorted(
        key
        for key in found.keys() | wanted.keys()
        if key not in found or key not in wanted or found[key].shape != wanted[key].shape
    )
    if differing:
        raise CheckpointMismatchError(
            f"{misfit}: {len(differing)} tensors differ, the first is {differing[0]!r}; {remedy}"
        )
    for key, value in wanted.items():
        value.copy_(own_share(found[key], value))


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
