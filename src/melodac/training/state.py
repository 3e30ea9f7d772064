"""Everything a run must remember between two updates, and its way to disk and back.

Learning rate, windows and everything drawn at random are functions of the seed and the update
number, so weights, averaged weights, moments and a few numbers are all. Only the trainer imports
this file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from melodac.errors import CheckpointMismatchError, NonFiniteError
from melodac.models.language_model import LanguageModel
from melodac.training.checkpoint import Checkpoint, prune_checkpoints, write_checkpoint
from melodac.training.config import TrainConfig
from melodac.training.ema import ExponentialAverage
from melodac.training.optimizer import build_optimizer

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
        self, model: LanguageModel, config: TrainConfig, memories: Mapping[str, Remembers]
    ) -> None:
        """Begin at update 0 with the model as it is.

        Args:
            model: The model in training, on its device.
            config: The run.
            memories: Parts of the trainer that remember, by name.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self.memories = memories
        self.optimizer = build_optimizer(model, config)
        self.average = ExponentialAverage(model, config.ema_decay)
        self._random = {"seed": config.seed, "scheme": RANDOM_SCHEME}
        self.update = 0
        self.num_frames = 0
        self.best: Best | None = None

    def save(self, directory: Path, identity: Mapping[str, Any], *, keep: int) -> Path:
        """Write the checkpoint of this update and drop the oldest ones beyond `keep`.

        Weights that are not finite are never written: `NonFiniteError`.
        """
        self._check_finite()
        tensors = self._weights()
        tensors["optimizer"] = self.optimizer.tensors()
        return self._write(directory, tensors, identity, keep)

    def save_best(self, directory: Path, identity: Mapping[str, Any]) -> Path:
        """Write weights and averaged weights only; the newest such folder is the best so far."""
        self._check_finite()
        return self._write(directory, self._weights(), identity, keep=2)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint stood.

        Raises:
            CheckpointMismatchError: If its tensors do not fit the model.
        """
        load_weights(self.model, checkpoint, "model")
        load_weights(self.average.model, checkpoint, "ema")
        self.optimizer.load_tensors(checkpoint.read_tensors("optimizer"))
        state = checkpoint.state
        missing = sorted({"num_frames", "best", "random", *self.memories} - state.keys())
        if missing or state["random"] != self._random:
            raise CheckpointMismatchError(
                f"{checkpoint.folder} cannot be resumed: its state lacks {', '.join(missing)}"
                if missing
                else f"{checkpoint.folder} draws its random numbers by {state['random']}, this run "
                f"by {self._random}: start in another directory"
            )
        for name, memory in self.memories.items():
            memory.restore(state[name])
        self.update = checkpoint.update
        self.num_frames = state["num_frames"]
        best = state["best"]
        self.best = None if best is None else Best(**best)

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {"model": self.model.state_dict(), "ema": self.average.model.state_dict()}

    def _write(
        self,
        directory: Path,
        tensors: Mapping[str, Mapping[str, Tensor]],
        identity: Mapping[str, Any],
        keep: int,
    ) -> Path:
        state = {
            "update": self.update,
            "num_frames": self.num_frames,
            "best": None if self.best is None else self.best._asdict(),
            "random": self._random,
            **{name: memory.state() for name, memory in self.memories.items()},
            "versions": {"torch": torch.__version__},
        }
        folder = write_checkpoint(
            directory, self.update, tensors=tensors, state=state, config=identity
        )
        prune_checkpoints(directory, keep)
        return folder

    def _check_finite(self) -> None:
        for name, weight in self.model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise NonFiniteError(
                    f"{name} is not finite after update {self.update}: no checkpoint is written, "
                    "the last one is good; lower train.learning_rate"
                )


def load_weights(model: LanguageModel, checkpoint: Checkpoint, name: str) -> None:
    """Put the weights of `<name>.safetensors` into a model, every one or none.

    Args:
        model: A model of the checkpoint's config.
        checkpoint: An opened checkpoint.
        name: "ema" for the averaged weights, "model" for the raw ones.

    Raises:
        CheckpointMismatchError: If a tensor is missing, left over or of another shape.
    """
    found = checkpoint.read_tensors(name)
    wanted = model.state_dict()
    differing = sorted(
        key
        for key in found.keys() | wanted.keys()
        if key not in found or key not in wanted or found[key].shape != wanted[key].shape
    )
    if differing:
        raise CheckpointMismatchError(
            f"{checkpoint.folder} does not fit this model: {len(differing)} tensors differ, "
            f"the first is {differing[0]!r}; build the model from the checkpoint's config"
        )
    model.load_state_dict(found)
