"""Everything a run must remember between two updates, and its way to disk and back.

Learning rate, windows and everything drawn at random are functions of the seed and the update
number, so weights, averaged weights, moments and a few numbers are all.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from melodac.errors import CheckpointMismatchError, NonFiniteError
from melodac.models.language_model import LanguageModel
from melodac.training.checkpoint import Checkpoint, write_checkpoint
from melodac.training.config import TrainConfig
from melodac.training.distributed import Ranks
from melodac.training.ema import ExponentialAverage
from melodac.training.optimizer import build_optimizer
from melodac.training.retention import prune_checkpoints
from melodac.training.sharding import fill, whole_tensor

RANDOM_SCHEME = "sha256 of seed, purpose, update, item"
"""How every random number of a run is drawn; a checkpoint drawn otherwise is another run."""


@runtime_checkable
class Remembers(Protocol):
    """A part of the trainer with a memory from update to update."""

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` was taken."""
        ...


class Best(NamedTuple):
    """The lowest validation loss so far."""

    update: int
    loss: float


class TrainState:
    """Where a run stands."""

    def __init__(
        self,
        model: LanguageModel,
        average: ExponentialAverage,
        config: TrainConfig,
        *,
        memories: Mapping[str, Remembers],
        ranks: Ranks,
    ) -> None:
        """Begin at update 0 with the model as it is.

        Args:
            model: The model in training, on its device, cut if it is to be.
            average: Its average, cut alike.
            config: The run.
            memories: Parts of the trainer that remember, by name.
            ranks: The processes of the run; the first writes.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self.memories = memories
        self.optimizer = build_optimizer(model, config)
        self.average = average
        self._config = config
        self._ranks = ranks
        self._random = {"seed": config.seed, "scheme": RANDOM_SCHEME}
        self.update = 0
        self.num_frames = 0
        self.best: Best | None = None

    def save(self, directory: Path, identity: Mapping[str, Any]) -> None:
        """Write the checkpoint of this update and drop the oldest ones beyond the limits.

        Weights that are not finite are never written: `NonFiniteError`.
        """
        tensors = self._weights()
        tensors["optimizer"] = self._ranks.full_tensors(self.optimizer.tensors())
        config = self._config
        self._write(directory, tensors, identity)
        self._ranks.from_first(
            lambda: prune_checkpoints(
                directory, keep=config.keep_checkpoints, keep_mb=config.keep_checkpoints_mb
            )
        )

    def save_best(self, directory: Path, identity: Mapping[str, Any]) -> None:
        """Write weights and averaged weights only; the newest such folder is the best so far."""
        self._write(directory, self._weights(), identity)
        self._ranks.from_first(lambda: prune_checkpoints(directory, keep=2))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint stood.

        Raises:
            CheckpointMismatchError: If its tensors do not fit the model, or its state is not whole.
        """
        self.restore_weights(checkpoint)
        random = checkpoint.entry("random")
        if random != self._random:
            raise CheckpointMismatchError(
                f"{checkpoint.folder} draws its random numbers by {random}, this run by "
                f"{self._random}: start in another directory"
            )
        for name, memory in self.memories.items():
            memory.restore(checkpoint.entry(name))
        self.update = checkpoint.update
        self.num_frames = checkpoint.entry("num_frames")
        best = checkpoint.entry("best")
        self.best = None if best is None else Best(**best)

    def restore_weights(self, checkpoint: Checkpoint) -> None:
        """Take weights, average and moments of one checkpoint, all three, and nothing else."""
        load_weights(self.model, checkpoint, "model")
        load_weights(self.average.model, checkpoint, "ema")
        self.optimizer.load_tensors(checkpoint.read_tensors("optimizer"))

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        self._check_finite()
        full = self._ranks.full_tensors
        return {
            "model": full(self.model.state_dict()),
            "ema": full(self.average.model.state_dict()),
        }

    def _write(
        self,
        directory: Path,
        tensors: Mapping[str, Mapping[str, Tensor]],
        identity: Mapping[str, Any],
    ) -> None:
        state = {
            "update": self.update,
            "num_frames": self.num_frames,
            "best": None if self.best is None else self.best._asdict(),
            "random": self._random,
            **{name: memory.state() for name, memory in self.memories.items()},
            "versions": {"torch": torch.__version__},
        }
        self._ranks.from_first(
            lambda: write_checkpoint(
                directory, self.update, tensors=tensors, state=state, config=identity
            )
        )

    @property
    def is_finite(self) -> bool:
        """Whether every weight is; asked by all processes."""
        return next(self._broken(), None) is None

    def _check_finite(self) -> None:
        name = next(self._broken(), None)
        if name is not None:
            raise NonFiniteError(
                f"{name} is not finite after update {self.update}: no checkpoint is written, "
                "the last one is good; lower train.learning_rate"
            )

    def _broken(self) -> Iterator[str]:
        for name, weight in self.model.named_parameters():
            if not bool(whole_tensor(weight.isfinite().all())):
                yield name


def load_weights(model: LanguageModel, checkpoint: Checkpoint, name: str) -> None:
    """Put the weights of `<name>.safetensors` into a model, every one or none.

    A tensor that is missing, left over or of another shape is `CheckpointMismatchError`.

    Args:
        model: A model of the checkpoint's config.
        checkpoint: An opened checkpoint.
        name: "ema" for the averaged weights, "model" for the raw ones.
    """
    fill(
        model.state_dict(),
        checkpoint.read_tensors(name),
        misfit=f"{checkpoint.folder} does not fit this model",
        remedy="build the model from the checkpoint's config",
    )
