"""Memory of an update, known before it runs, and advice where it runs out.

The estimate counts the trainer's memory at its two peaks: in the backward pass of the loss, and
while the size of an update is measured.
"""

import errno
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from melodac.errors import OutOfMemoryError
from melodac.models.config import LanguageModelConfig, count_block, count_parameters
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.training.config import TrainConfig
from melodac.training.distributed import Sharding
from melodac.training.planning.estimates import estimate_training_memory

_ALLOCATOR_SHARE = 1.1
"""Allocated bytes per requested byte; measured on a CPU."""

_NARROW_SHARE = 0.68
"""Size of activations under bf16 and fp16, relative to fp32: the residual stream and norms stay
float32; measured on nano and micro."""

_LOGIT_BYTES = {"fp32": 16, "bf16": 14, "fp16": 14}
"""Bytes per logit: the logit, its log-softmax, and the gradients of both."""

_RATIO_COPIES = 2
"""Copies of the weights while the size of an update is measured or a checkpoint is written."""

_EXHAUSTED = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "ALLOC_FAILED",
    "bad_alloc",
)
"""Texts of torch's RuntimeError for a lack of memory."""


class MemoryNeed(NamedTuple):
    """Bytes that one process of a run holds, by cause."""

    state_bytes: int
    """Share of this process of weights, gradients, optimizer state and EMA weights."""
    gathered_bytes: int
    """Whole weights and gradients that fsdp has gathered at one time."""
    activation_bytes: int
    """Activations kept for the backward pass, and 16-bit copies of the weights."""
    logit_bytes: int
    """Logits and the results of the loss."""
    measuring_bytes: int
    """Copies of the weights between two passes, when activations are freed."""

    @property
    def peak_bytes(self) -> int:
        """The most that is held at once, the process itself not counted."""
        passing = self.gathered_bytes + self.activation_bytes + self.logit_bytes
        return int(_ALLOCATOR_SHARE * (self.state_bytes + max(passing, self.measuring_bytes)))


class MemoryShape(NamedTuple):
    """Everything about a run that decides what memory it needs."""

    model: LanguageModelConfig
    config: TrainConfig
    num_steps: int
    """Steps of its longest windows."""
    world_size: int = 1
    """Processes that share an update."""
    sharding: Sharding = "ddp"


def estimate_memory(shape: MemoryShape) -> MemoryNeed:
    """Estimate the memory of one process of a run."""
    model, config, num_steps, world_size, sharding = shape
    count = count_parameters(model)
    by_muon = count.blocks if config.optimizer == "muon" else 0
    is_cut = sharding == "fsdp" and world_size > 1
    shares = world_size if is_cut else 1
    # two blocks, as the next is gathered while one computes, and all parameters outside of blocks
    whole = 2 * count_block(model) + count.total - count.blocks if is_cut else 0
    kept, rebuilt = _activation_bytes(model, config, num_steps)
    logit_bytes = (
        _LOGIT_BYTES[config.compute.precision]
        * config.micro_batch
        * estimate_logits(model, num_steps)
    )
    return MemoryNeed(
        state_bytes=4 * (5 * count.total - by_muon) // shares,
        gathered_bytes=2 * 4 * whole,
        activation_bytes=kept,
        logit_bytes=max(logit_bytes, rebuilt + logit_bytes // 4),
        measuring_bytes=_RATIO_COPIES * 4 * count.total // shares + (4 * count.total) * is_cut,
    )


def estimate_logits(model: LanguageModelConfig, num_steps: int) -> int:
    """Return the number of logits of one window."""
    one = estimate_training_memory(model, batch_size=1, num_steps=num_steps, bytes_per_number=1)
    return one.logit_bytes // 3


def _activation_bytes(
    model: LanguageModelConfig, config: TrainConfig, num_steps: int
) -> tuple[int, int]:
    """Return the bytes kept from the forward pass, and those recomputed by one block."""
    full = estimate_training_memory(
        model, batch_size=config.micro_batch, num_steps=num_steps
    ).activation_bytes
    narrow_copies = 0
    if config.compute.precision != "fp32":
        full = int(_NARROW_SHARE * full)
        count = count_parameters(model)
        head = model.num_codebooks * CODEBOOK_SIZE * model.dim  # whatever its rows are made of
        narrow_copies = 2 * (count.blocks + count.text_encoder + count.geometry + head)
    if not config.compute.recompute:
        return full + narrow_copies, 0
    stream = 4 * config.micro_batch * num_steps * (model.num_layers + 4) * model.dim
    return stream + narrow_copies, full // model.num_layers


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that a process may still allocate; None if the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(sizes["MemAvailable"].split()[0]) * 1024


def say_what_needs_less(shape: MemoryShape) -> str:
    """Name the changes of params that need less memory, each with what it needs, in half a line."""
    now = estimate_memory(shape).peak_bytes
    changes = [
        (words, estimate_memory(shape._replace(config=changed)).peak_bytes)
        for words, changed in _thriftier(shape.config, shape.world_size)
    ]
    words = [f"{words} ({format_bytes(size)})" for words, size in changes if size < 0.9 * now]
    return f"about {format_bytes(now)} are needed; less: " + (
        ", or ".join(words) or "a smaller train.size or shorter windows"
    )


@contextmanager
def memory_guard(where: Callable[[], str], advice: Callable[[], str]) -> Generator[None]:
    """Turn running out of memory, on CPU or GPU, into one line with advice.

    Args:
        where: Returns the name of the task, such as "update 7".
        advice: Returns the advice of `say_what_needs_less`.

    Raises:
        OutOfMemoryError: In place of the error of torch, numpy or Python.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, OutOfMemoryError) or not _is_exhausted(error):
            raise
        raise OutOfMemoryError(
            f"{where()} ran out of memory: {advice()}; the checkpoints are as they were"
        ) from error


def _thriftier(config: TrainConfig, world_size: int) -> Iterator[tuple[str, TrainConfig]]:
    for micro_batch in (config.micro_batch // 2, 1):
        if micro_batch and config.windows_per_update % (micro_batch * world_size) == 0:
            words = f"train.micro_batch {config.micro_batch} -> {micro_batch}"
            yield words, config.model_copy(update={"micro_batch": micro_batch})
            break
    compute = config.compute
    if not compute.recompute:
        changed = compute.model_copy(update={"recompute": True})
        yield "train.compute.recompute: true", config.model_copy(update={"compute": changed})
    if compute.precision == "fp32":
        changed = compute.model_copy(update={"precision": "bf16"})
        yield "train.compute.precision: bf16", config.model_copy(update={"compute": changed})


def _is_exhausted(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return any(words in str(error) for words in _EXHAUSTED)


def format_bytes(size_bytes: int) -> str:
    """Format a size as GB or MB, of 1e9 and 1e6 bytes."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"
