"""Forecast of a run before its first update: memory, hours, disk, and music per parameter.

Nothing is trained here: hours come from passes over real windows whose gradients are discarded,
everything else from the shape of the run.
"""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from melodac.errors import OutputError
from melodac.models.config import LanguageModelConfig, count_parameters
from melodac.tokens.delay import DelayPattern
from melodac.training.config import TrainConfig
from melodac.training.distributed import Sharding
from melodac.training.planning.estimates import codes_per_parameter, count_training_flops
from melodac.training.planning.memory import (
    MemoryShape,
    available_bytes,
    estimate_memory,
    format_bytes,
    say_what_needs_less,
)
from melodac.training.schedule import context_frames_at
from melodac.training.state import ALWAYS_KEPT
from melodac.training.step import GradientAccumulator

FEW_CODES = 1.0
"""Codes per parameter below which a model can memorise its music."""

_STEP_COPIES = 6.5
"""Cost of a step, in copies of the weights, each of which is one read and one write: the norm reads
gradients, clipping reads and writes them, AdamW reads 4 and writes 3, EMA reads 2 and writes 1."""


class PassTimes(NamedTuple):
    """Measured seconds of the parts that every update repeats."""

    part_s: float
    """Forward and backward pass of one part of update 1."""
    step_s: float
    """Norm, clipping, optimizer and EMA weights, once per update."""


class RunShape(NamedTuple):
    """Shape of a run: everything that decides its cost."""

    model: LanguageModelConfig
    config: TrainConfig
    pattern: DelayPattern
    window_frames: int
    """Frames of the index's windows."""
    train_frames: int
    validation_frames: int
    world_size: int = 1
    sharding: Sharding = "ddp"

    @property
    def longest_frames(self) -> int:
        """Frames of the longest windows of the run."""
        stages = [frames for _, frames in self.config.context]
        return max(stages, default=self.window_frames)

    @property
    def num_steps(self) -> int:
        """Steps of the longest windows that are trained or validated on."""
        return self.pattern.num_steps(max(self.longest_frames, self.window_frames))

    @property
    def memory(self) -> MemoryShape:
        """What of it decides the memory."""
        return MemoryShape(self.model, self.config, self.num_steps, self.world_size, self.sharding)


class RunForecast(NamedTuple):
    """Forecast of a run, for the log."""

    lines: tuple[str, ...]
    """One plain sentence about each resource of the run."""
    warnings: tuple[str, ...]
    """Settings that are allowed but likely to end badly, one sentence each."""


def time_passes(gradients: GradientAccumulator) -> PassTimes:
    """Time one part of update 1 after a warm-up pass; weights and optimizer state stay.

    Args:
        gradients: Accumulator of the trainer, or one made for this; its gradients are cleared.
    """
    data = gradients.reader.read(1)
    one = data._replace(parts=data.parts[:1])
    model, device = gradients.model, gradients.device
    weights = list(model.parameters())
    try:
        gradients.take(1, one)
        model.zero_grad()
        part_s = _seconds(lambda: gradients.take(1, one), device)
    finally:
        model.zero_grad()
    copy_s = _seconds(lambda: [weight.detach().clone() for weight in weights], device)
    return PassTimes(part_s, _STEP_COPIES * copy_s)


def estimate_seconds(shape: RunShape, times: PassTimes, *, first: int = 1) -> float:
    """Estimate the seconds from an update to the end, without the sampling of collapse probes.

    Args:
        shape: Shape of the run.
        times: Times measured on its first update.
        first: First update to count.
    """
    config = shape.config
    parts = config.windows_per_update // config.micro_batch // shape.world_size
    stages = [first for first, _ in config.context] or [1]
    ends = [*(other - 1 for other in stages[1:]), config.updates]
    seconds = 0.0
    for begin, end in zip(stages, ends, strict=True):
        part_s = times.part_s * _work(shape, begin) / _work(shape, 1)
        seconds += max(0, end - max(begin, first) + 1) * (parts * part_s + times.step_s)
    windows = math.ceil(shape.validation_frames / shape.window_frames)
    steps = shape.pattern.num_steps(shape.window_frames)
    # the backward pass takes twice the time of the forward pass, so validation takes a third
    window_s = times.part_s / 3 / config.micro_batch
    window_s *= count_training_flops(shape.model, batch_size=1, num_steps=steps) / _work(shape, 1)
    validations = math.ceil(config.updates / config.validate_every)
    done = (first - 1) // config.validate_every
    return seconds + (validations - done) * windows * window_s / shape.world_size


def estimate_disk(shape: RunShape) -> int:
    """Return the most bytes of checkpoints and best weights, one in writing included."""
    config, count = shape.config, count_parameters(shape.model)
    moments = 2 * count.total - (count.blocks if config.optimizer == "muon" else 0)
    # float32: weights, EMA weights and optimizer state
    checkpoint = 4 * (2 * count.total + moments)
    kept = config.keep_checkpoints
    if config.keep_checkpoints_mb:
        older = int(config.keep_checkpoints_mb * 1e6) // checkpoint
        kept = min(kept, ALWAYS_KEPT + older)
    # one is written before the oldest is removed, and an older healthy one may be kept too
    return (kept + 2) * checkpoint + (ALWAYS_KEPT + 1) * 4 * 2 * count.total


def check_disk(shape: RunShape, directory: Path) -> str:
    """Check that the checkpoints of a run fit on the disk; return one sentence about it.

    Args:
        shape: Shape of the run.
        directory: Folder of its checkpoints; its present content counts as free space.

    Raises:
        OutputError: If there is too little space.
    """
    needed = estimate_disk(shape)
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    held = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free + held
    if needed > free:
        raise OutputError(
            f"{directory}: the checkpoints of this run fill up to {format_bytes(needed)}, free are "
            f"{format_bytes(free)}: make room, lower train.keep_checkpoints or set "
            "train.keep_checkpoints_mb"
        )
    return f"disk: up to {format_bytes(needed)} of checkpoints, {format_bytes(free)} free"


def forecast_run(
    shape: RunShape,
    *,
    device: torch.device,
    directory: Path,
    times: PassTimes | None = None,
    first: int = 1,
) -> RunForecast:
    """Forecast memory, disk and hours of a run before it starts.

    A run whose checkpoints do not fit on the disk raises `OutputError`.

    Args:
        shape: Shape of the run.
        device: Device of the model.
        directory: Folder of the checkpoints.
        times: Result of `time_passes`; without it hours are left out.
        first: First update to count.
    """
    lines = [_describe_model(shape), _describe_windows(shape)]
    memory_line, memory_warnings = _describe_memory(shape, device)
    lines += [memory_line, check_disk(shape, directory)]
    if times is not None:
        lines.append(_describe_hours(shape, times, first))
    return RunForecast(
        tuple(lines), (*_data_warnings(shape), *_position_warnings(shape), *memory_warnings)
    )


def _describe_model(shape: RunShape) -> str:
    count = count_parameters(shape.model)
    codes = shape.train_frames * shape.model.num_codebooks
    ratio = codes_per_parameter(shape.model, num_codes=codes)
    return (
        f"model: {count.total / 1e6:.2f} M parameters; music: {codes} training codes, "
        f"{ratio:.2g} a parameter"
    )


def _describe_windows(shape: RunShape) -> str:
    steps = shape.num_steps
    return (
        f"windows: up to {shape.longest_frames} frames are {steps} steps of delay "
        f"{shape.pattern.name}, nothing is cut"
    )


def _describe_memory(shape: RunShape, device: torch.device) -> tuple[str, list[str]]:
    need = estimate_memory(shape.memory)
    free = available_bytes(device)
    there = "" if free is None else f", {format_bytes(free)} available on {device.type}"
    line = (
        f"memory: about {format_bytes(need.peak_bytes)} a process (weights and moments "
        f"{format_bytes(need.state_bytes)}, activations {format_bytes(need.activation_bytes)}, "
        f"logits {format_bytes(need.logit_bytes)}){there}"
    )
    if free is None or need.peak_bytes <= free:
        return line, []
    advice = say_what_needs_less(shape.memory)
    return line, [f"the run may not fit into {format_bytes(free)} of memory: {advice}"]


def _describe_hours(shape: RunShape, times: PassTimes, first: int) -> str:
    seconds = estimate_seconds(shape, times, first=first)
    shown = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"
    return (
        f"time: about {shown} for {shape.config.updates - first + 1} updates (a part takes "
        f"{times.part_s:.3g} s, a step {times.step_s:.2g} s)"
    )


def _data_warnings(shape: RunShape) -> list[str]:
    codes = shape.train_frames * shape.model.num_codebooks
    ratio = codes_per_parameter(shape.model, num_codes=codes)
    if ratio >= FEW_CODES:
        return []
    return [
        f"{ratio:.2g} codes a parameter: the model can learn this music by heart and its training "
        "loss will look healthy all the same; judge it by validation and by ear, add music or take "
        "a smaller train.size"
    ]


def _position_warnings(shape: RunShape) -> list[str]:
    # wavelength of the slowest pair of channels (RoFormer, equation 15), in steps
    head_dim = shape.model.head_dim
    slowest = 2 * math.pi * shape.model.rope_base ** ((head_dim - 2) / head_dim)
    if shape.num_steps <= slowest / 2:
        return []
    return [
        f"{shape.num_steps} steps are more than half a turn of the slowest rotary wave "
        f"({slowest:.0f} steps): far positions look alike, shorten the windows"
    ]


def _work(shape: RunShape, update: int) -> int:
    """Return the floating-point operations of one window at an update."""
    frames = context_frames_at(update, shape.config, shape.window_frames)
    steps = shape.pattern.num_steps(frames)
    return count_training_flops(shape.model, batch_size=1, num_steps=steps)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    # kernels run asynchronously: without this only their launch would be timed
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started_s
