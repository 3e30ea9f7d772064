"""One update, from its windows to new weights: gradients, judgement, then the step or none.

Each part's objective is divided by the size of the whole update, so that gradient accumulation and
data parallelism equal one large batch. Nothing changes before the stability controller has accepted
the update; a refused one leaves weights, optimizer state and EMA weights as they were, and its
number and windows are spent.
"""

import re
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.training.compute import Compute
from melodac.training.config import TrainConfig
from melodac.training.corruption import Corruption
from melodac.training.data import TrainingData, UpdateInput, UpdateReader
from melodac.training.distributed import Ranks
from melodac.training.events import Event, Metrics, spell_finite
from melodac.training.guards.stability import Judgement, StabilityController
from melodac.training.loss import codebook_means, total_loss
from melodac.training.objective import Objective
from melodac.training.schedule import context_frames_at, learning_rate_at
from melodac.training.seeding import seeded
from melodac.training.state import TrainState


class LossSums(NamedTuple):
    """Nats and counted cells of a whole update, unsmoothed and unweighted."""

    nats: Float[Tensor, " K"]
    counts: Int64[Tensor, " K"]


class GradientAccumulator:
    """Gradient accumulation: reads an update and runs its parts forward and backward.

    The trainer, the forecast of a run and the gate's comparison of gradients all use this assembly
    of windows, corruption, model, objective and precision.
    """

    def __init__(
        self,
        model: LanguageModel,
        pattern: DelayPattern,
        data: TrainingData,
        config: TrainConfig,
        *,
        ranks: Ranks,
    ) -> None:
        """Wrap the model for the processes and the compute settings of a run.

        Args:
            model: Model in training; fsdp shards it in place.
            pattern: Delay pattern of the codes.
            data: Data of the run.
            config: Config of the run.
            ranks: Processes that share an update.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self.compute = Compute(config.compute, self.device)
        self.corruption = Corruption(config.corruption, config.seed)
        self.reader = UpdateReader(
            data,
            pattern,
            config,
            text_bytes=model.config.text_bytes,
            ranks=ranks,
            device=self.device,
        )
        self._config = config
        self._ranks = ranks
        self._objective = Objective(config.objective, model.config.num_codebooks)
        self._wrapped: nn.Module = ranks.wrap(model)
        self._forward = self.compute.prepare(self._wrapped)

    def take(self, update: int, data: UpdateInput) -> LossSums:
        """Accumulate the gradients of an update; the weights must have none before."""
        nats: list[Tensor] = []
        counts: list[Tensor] = []
        normaliser = self._objective.normaliser(data.num_frames)
        self.model.train()
        for part in data.parts:
            is_last = part is data.parts[-1]
            with self.compute.autocast():
                read = self.corruption.inputs(self.model, part, update=update)
            with (
                seeded(self._config.seed, "dropout", update, part.index, device=self.device),
                self._ranks.accumulating(self._wrapped, is_last=is_last),
            ):
                # logits have no name here, so they are freed as soon as the backward pass allows
                measured = self._objective.measure(
                    self._forward(read, part.condition), part.sequence, part.counted, update=update
                )
                self.compute.backward(measured.objective / normaliser)
            nats.append(measured.nats.detach())
            counts.append(measured.counts)
        self.compute.unscale(self.model)
        return LossSums(
            self._ranks.sum(torch.stack(nats).sum(dim=0)),
            self._ranks.sum(torch.stack(counts).sum(dim=0)),
        )

    def norm(self) -> Tensor:
        """Return the norm of all gradients, over all processes."""
        return whole_norm([grad for _, grad in self._gradients()])

    def clip(self, norm: Tensor) -> None:
        """Scale the gradients down to `clip_norm` if their norm exceeds it."""
        weights = [weight for weight, _ in self._gradients()]
        clip_grads_with_norm_(weights, self._config.clip_norm, norm)

    def _gradients(self) -> list[tuple[Tensor, Tensor]]:
        return [
            (weight, weight.grad) for weight in self.model.parameters() if weight.grad is not None
        ]


def whole_norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of some tensors together, over all shares of sharded ones."""
    norm = get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


_RATIO_EVERY = 10
"""Updates between measurements of the update's size, each of which copies the weights."""


class UpdateResult(NamedTuple):
    """Decision, metrics and events of one update."""

    judgement: Judgement
    metrics: Metrics
    events: list[Event]


class UpdateStep:
    """Updates of a run, one after another."""

    def __init__(
        self,
        state: TrainState,
        gradients: GradientAccumulator,
        stability: StabilityController,
        config: TrainConfig,
    ) -> None:
        """Assemble the parts of an update; all of them belong to the trainer."""
        self._state = state
        self._gradients = gradients
        self._reader = gradients.reader
        self._compute = gradients.compute
        self._stability = stability
        self._config = config

    def take(self, update: int, read: UpdateInput) -> UpdateResult:
        """Apply one update, or refuse it; either way its number is spent."""
        started_s = time.monotonic()
        if self._is_new_context(update):
            self._stability.context_changed()
        rate = learning_rate_at(update, self._config) * self._stability.learning_rate_scale
        self._state.optimizer.set_learning_rate(rate)
        sums = self._gradients.take(update, read)
        loss, total_norm = float(total_loss(*sums)), self._gradients.norm()
        # read before `lowers_scale` may halve it: the judgement is about this pass
        norm, scale = float(total_norm), self._compute.loss_scale or 1.0
        self._compute.lowers_scale(loss, norm)
        judgement = self._stability.judge(loss, norm, loss_scale=scale)
        metrics = self._describe(update, rate, sums, norm)
        events: list[Event] = []
        if judgement.verdict == "accept":
            ratio = self._step(update, total_norm)
            if ratio is not None:
                metrics["update_ratio"] = ratio
            events = self._stability.accepted(
                update, is_clipped=norm > self._config.clip_norm, update_ratio=ratio
            )
        else:
            events = [judgement.event(update, loss, norm)]
        self._state.optimizer.zero_grad()
        self._state.update = update
        metrics |= {
            "is_skipped": judgement.verdict != "accept",
            "clip_frac": self._stability.clip_frac,
            "skip_frac": self._stability.skip_frac,
            "frames_per_s": int(sums.counts[0]) / max(time.monotonic() - started_s, 1e-9),
            "memory_mb": _peak_memory_mb(self._state.device),
        }
        return UpdateResult(judgement, spell_finite(metrics), events)

    def _step(self, update: int, norm: Tensor) -> float | None:
        """Update weights, optimizer state and EMA weights; return the change's relative size."""
        self._gradients.clip(norm)
        weights = [weight.detach() for weight in self._state.model.parameters()]
        is_measured = update % _RATIO_EVERY == 0
        before = [weight.clone() for weight in weights] if is_measured else []
        self._compute.step(self._state.optimizer)
        self._state.average.update(self._state.model, update)
        if not is_measured:
            return None
        changes = [new - old for new, old in zip(weights, before, strict=True)]
        return float(whole_norm(changes) / whole_norm(before).clamp(min=1e-12))

    def _describe(self, update: int, rate: float, sums: LossSums, norm: float) -> Metrics:
        self._state.num_frames += int(sums.counts[0])
        return {
            "update": update,
            "epoch": self._reader.order.epoch_after(update),
            "num_frames": self._state.num_frames,
            "learning_rate": rate,
            "loss": float(total_loss(*sums)),
            **per_codebook("loss", codebook_means(*sums)),
            "grad_norm": norm,
            "grad_norm_clipped": min(norm, self._config.clip_norm),
            "is_clipped": norm > self._config.clip_norm,
        }

    def _is_new_context(self, update: int) -> bool:
        if update == 1:
            return False
        frames = self._reader.window_frames
        return context_frames_at(update, self._config, frames) != context_frames_at(
            update - 1, self._config, frames
        )


def per_codebook(name: str, values: list[float]) -> Metrics:
    """Return one metric per codebook under names with the codebook's number."""
    return {f"{name}_k{codebook}": value for codebook, value in enumerate(values)}


def _peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MB, of the GPU or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts the memory of the process before exec
        peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))
        if peak is not None:
            return int(peak[1]) * 1024 / 1e6
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6
