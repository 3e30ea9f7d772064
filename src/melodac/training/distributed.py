"""Several processes that train one model as one: what they share, sum and decide alike.

One update is the same update on any number of processes: its parts are dealt out, gradients and
logged sums are added up, and all that is drawn is a function of the update and the part. Collective
calls stand on the straight path that every process takes; what one process alone knows, such as a
signal, is made common first. One process is the same code without any call.

A sharded model has every parameter cut along its first axis, one share a process (FSDP2), block by
block. On disk nothing is cut: what is saved is gathered first and what is read is cut anew, so a
checkpoint fits any number of processes and either sharding. Every function that gathers is called
by all processes alike.
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


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


Sharding = Literal["ddp", "fsdp"]
Model = TypeVar("Model", bound=nn.Module)
Result = TypeVar("Result")


class Ranks:
    """The processes of a run, seen from one of them.

    The order in which a trainer asks, the same everywhere:

        average = copy of the model                   before it is cut
        forward = ranks.wrap(model); ranks.wrap(average)
        optimizer over model.parameters()             after it is cut
        for part in ranks.share(num_parts):           forward(...).backward() within `accumulating`
        ranks.sum(nats and counts); norm; decide      from summed numbers only
        with ranks.whole(average) as model: ...       validation: any calls, no other process
        tensors = ranks.full_tensors(...)             gathered by all,
        ranks.from_first(lambda: write(tensors))      written by one, awaited by all
    """

    def __init__(self, rank: int = 0, world_size: int = 1, *, sharding: Sharding = "ddp") -> None:
        """One of some processes; made by `current`, or alone by default.

        Args:
            rank: Number of this process, from 0.
            world_size: Number of processes.
            sharding: ddp: each holds the whole model; fsdp: each holds a share.
        """
        self.rank = rank
        self.world_size = world_size
        self.sharding: Sharding = sharding
        self._skeletons = WeakKeyDictionary[nn.Module, nn.Module]()

    @classmethod
    def current(cls, sharding: Sharding = "ddp") -> "Ranks":
        """The processes that the caller has joined by `torch.distributed`, or this one alone."""
        if not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size(), sharding=sharding)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def check_share(self, windows_per_update: int, micro_batch: int) -> None:
        """Refuse an update that cannot be dealt out evenly.

        Raises:
            ConfigError: If some processes would have more parts than others.
        """
        if windows_per_update % (micro_batch * self.world_size):
            raise ConfigError(
                f"micro_batch ({micro_batch}) x processes ({self.world_size}) must divide "
                f"windows_per_update ({windows_per_update}): change one of the three"
            )

    def share(self, num_parts: int) -> range:
        """Numbers of the parts of an update that are this process's.

        Raises:
            ConfigError: If the parts cannot be dealt out evenly.
        """
        if num_parts % self.world_size:
            raise ConfigError(
                f"{num_parts} parts of an update cannot be dealt out to {self.world_size} "
                "processes evenly: change windows_per_update, micro_batch or processes"
            )
        size = num_parts // self.world_size
        return range(self.rank * size, (self.rank + 1) * size)

    def deal(self, num_items: int) -> range:
        """Numbers of the items that are this process's, where uneven is no harm."""
        return range(self.rank, num_items, self.world_size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def max(self, value: int) -> int:
        """The largest of all processes' numbers."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def any(self, flag: bool) -> bool:
        """Whether any process says yes; asked by all, once an update."""
        return bool(self.max(int(flag)))

    def check_equal(self, value: str | int, what: str) -> None:
        """Refuse processes that differ, on every one of them alike.

        Args:
            value: What must be the same everywhere.
            what: What it is, in a word or two.

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
        """What the work returns on the first process, which alone does it; an error is everyone's.

        Args:
            work: Without collective calls; returns something small.
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
        """What to call for a forward pass whose gradients are added up over all processes.

        With fsdp the model is cut in place: make copies before, the optimizer after. A model
        without gradients, such as the average, is only cut.
        """
        if self.world_size == 1:
            return model
        if self.sharding == "fsdp":
            self._skeletons[model] = build_skeleton(model)
            shard(model, self.world_size)
            return model
        if not any(weight.requires_grad for weight in model.parameters()):
            return model
        # Every parameter is used. Saying that some may not be keeps torch from rearranging its
        # buckets after the first update: a resumed run would add up in another order.
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
        """Run one part forward and backward; gradients are exchanged with the last part only."""
        if isinstance(wrapped, DistributedDataParallel) and not is_last:
            with wrapped.no_sync():
                yield
            return
        if is_sharded(wrapped):
            wrapped.set_requires_gradient_sync(is_last)
        yield

    @contextmanager
    def whole(self, model: Model) -> Generator[Model]:
        """The model with all its parameters while the block runs, to read and to run freely.

        Gathered by all processes alike; what the block does with it is each one's own affair.
        """
        skeleton = self._skeletons.get(model)
        if skeleton is None:
            yield model
            return
        with filled(skeleton, model) as plain:
            yield cast("Model", plain)

    def full_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors for the first process to write, on the CPU; the others get none."""
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
    """Sum, where torch would average: each part is already divided by the size of the update."""
    work = cast("distributed.Work", distributed.all_reduce(bucket.buffer(), async_op=True))
    return cast("Future[list[Tensor]]", work.get_future()).then(_first)


def _first(reduced: Future[list[Tensor]]) -> Tensor:
    return reduced.value()[0]
