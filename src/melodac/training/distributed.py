"""Data parallelism: processes that train one model together, whole (DDP) or sharded (FSDP).

One update is the same update on any number of processes: its parts are distributed, gradients and
logged sums are added, and every draw is a function of the update and the part. Collective calls lie
on the straight path that every process takes; what only one process knows, such as a signal, is
shared first. A single process runs the same code without any collective call.

A sharded model has every parameter cut along its first axis, one share per process (FSDP2), block
by block. Nothing on disk is sharded: tensors are gathered before saving and cut after reading, so a
checkpoint fits any number of processes and either kind of sharding. Every function that gathers
must be called by all processes.
"""

import copy
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeGuard, TypeVar, cast
from weakref import WeakKeyDictionary

# torch.distributed is hardly typed
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from melodac.errors import ConfigError, MelodacError
from melodac.models.block import Block
from melodac.training.checkpoint import whole_tensor


def shard(model: nn.Module, world_size: int) -> None:
    """Shard the parameters of a model in place; each block is gathered only while it computes.

    Gradients of the processes are added, never averaged: what is backpropagated is already divided
    by the size of the whole update.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size,))
    for module in [*(m for m in model.modules() if isinstance(m, Block)), model]:
        sharded = fully_shard(module, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(enable=True)
    # The logits are a view of the head's output. torch warns each time that writing into it would
    # lose gradients; nothing here writes into logits.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Check if `shard` was applied to this model."""
    return isinstance(model, FSDPModule)


def build_skeleton(model: nn.Module) -> nn.Module:
    """Return a copy of a model, not yet sharded, whose parameters take no memory."""
    return copy.deepcopy(model).to("meta")


@contextmanager
def filled(skeleton: nn.Module, model: nn.Module) -> Generator[nn.Module]:
    """Fill the skeleton with the whole parameters of a sharded model, for a with-block.

    The result is a plain module, which needs no other process.
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
    """Yield every parameter and buffer of a sharded model, whole, one at a time."""
    for _, tensor in _tensors(model):
        yield whole_tensor(tensor)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


Sharding = Literal["ddp", "fsdp"]
Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result")


class Ranks:
    """Processes of a run, seen from one of them.

    A trainer calls in this order, on every process:

        average = copy of the model                   before it is sharded
        forward = ranks.wrap(model); ranks.wrap(average)
        optimizer over model.parameters()             after it is sharded
        for part in ranks.share(num_parts):           forward(...).backward() within `accumulating`
        ranks.sum(nats and counts); norm; decide      from summed numbers only
        with ranks.whole(average) as model: ...       validation: any calls, no other process
        tensors = ranks.full_tensors(...)             gathered by all,
        ranks.from_first(lambda: write(tensors))      written by one, awaited by all
    """

    def __init__(self, rank: int = 0, world_size: int = 1, *, sharding: Sharding = "ddp") -> None:
        """Describe this process among the others; `current` fills in the arguments.

        Args:
            rank: Number of this process, from 0.
            world_size: Number of processes.
            sharding: ddp: every process holds the whole model; fsdp: each one a share.
        """
        self.rank = rank
        self.world_size = world_size
        self.sharding: Sharding = sharding
        self._skeletons = WeakKeyDictionary[nn.Module, nn.Module]()

    @classmethod
    def current(cls, sharding: Sharding = "ddp") -> "Ranks":
        """Return the processes of the initialised `torch.distributed`, or this one alone."""
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size(), sharding=sharding)

    @property
    def is_first(self) -> bool:
        """True for the process that writes files."""
        return self.rank == 0

    def check_share(self, windows_per_update: int, micro_batch: int) -> None:
        """Check that the windows of an update can be divided evenly.

        Raises:
            ConfigError: If some processes would have more parts than others.
        """
        if windows_per_update % (micro_batch * self.world_size):
            raise ConfigError(
                f"micro_batch ({micro_batch}) x processes ({self.world_size}) must divide "
                f"windows_per_update ({windows_per_update}): change one of the three"
            )

    def share(self, num_parts: int) -> range:
        """Return the numbers of the parts of an update that this process computes.

        Raises:
            ConfigError: If the parts cannot be divided evenly.
        """
        if num_parts % self.world_size:
            raise ConfigError(
                f"{num_parts} parts of an update cannot be dealt out to {self.world_size} "
                "processes evenly: change windows_per_update, micro_batch or processes"
            )
        size = num_parts // self.world_size
        return range(self.rank * size, (self.rank + 1) * size)

    def deal(self, num_items: int) -> range:
        """Return the numbers of the items of this process; some may get one more than others."""
        return range(self.rank, num_items, self.world_size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def max(self, value: int) -> int:
        """Return the largest value over all processes."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def any(self, flag: bool) -> bool:
        """Return True if the flag is set on any process; all must call it, once per update."""
        return bool(self.max(int(flag)))

    def check_equal(self, value: str | int, what: str) -> None:
        """Check that a value is equal on all processes; the error is raised on every one of them.

        Args:
            value: Value that must be equal everywhere.
            what: Name of the value, in a word or two.

        Raises:
            ConfigError: On every process, with the values of the first one that differs.
        """
        for rank, other in enumerate(values := self._gather(value)):
            if other != values[0]:
                raise ConfigError(
                    f"process {rank} has another {what} than process 0: {other!r}, not "
                    f"{values[0]!r}; start all processes from the same checkout, params and data"
                )

    def from_first(self, work: Callable[[], Result]) -> Result:
        """Run work on the first process only; return its result, or raise its error, on all.

        Args:
            work: Function without collective calls, with a small result.
        """
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except MelodacError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return cast("Result", outcome[0])

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call for a forward pass whose gradients are summed over processes.

        With fsdp the model is sharded in place: make copies before, the optimizer after. A model
        without gradients, such as that of the EMA weights, is only sharded.
        """
        if self.world_size == 1:
            return model
        if self.sharding == "fsdp":
            self._skeletons[model] = build_skeleton(model)
            shard(model, self.world_size)
            return model
        if not any(weight.requires_grad for weight in model.parameters()):
            return model
        # Every parameter is used, but saying that some may not be keeps torch from rearranging its
        # buckets after the first update: a resumed run would sum gradients in another order.
        parallel = DistributedDataParallel(
            model,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )
        parallel.register_comm_hook(None, _add_up)
        return parallel

    @contextmanager
    def accumulating(self, wrapped: nn.Module, *, is_last: bool) -> Generator[None]:
        """Run one part forward and backward; gradients are reduced at the last part only."""
        if isinstance(wrapped, DistributedDataParallel) and not is_last:
            with wrapped.no_sync():
                yield
            return
        if is_sharded(wrapped):
            wrapped.set_requires_gradient_sync(is_last)
        yield

    @contextmanager
    def whole(self, model: Model) -> Generator[Model]:
        """Yield the model with whole parameters, to read and to run.

        All processes must enter the block; inside it each may do something else.
        """
        skeleton = self._skeletons.get(model)
        if skeleton is None:
            yield model
            return
        with filled(skeleton, model) as plain:
            yield cast("Model", plain)

    def full_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors on the CPU for the first process to write; the others get none."""
        if self.world_size == 1:
            return dict(tensors)
        full: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            value = whole_tensor(tensor)
            if self.is_first:
                full[name] = value.cpu()
        return full

    def _gather(self, value: str | int) -> list[str | int]:
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values


def _add_up(_: None, bucket: GradBucket) -> Future[Tensor]:
    """Sum gradients, where torch would average: each part is already divided by the update."""
    work = cast("distributed.Work", distributed.all_reduce(bucket.buffer(), async_op=True))
    return cast("Future[list[Tensor]]", work.get_future()).then(_first)


def _first(reduced: Future[list[Tensor]]) -> Tensor:
    return reduced.value()[0]
