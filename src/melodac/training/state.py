"""Everything a run must remember between two updates, and its way to disk and back.

Learning rate and window order are functions of the update number, so weights, averaged weights,
moments, the dropout generators and a few numbers are all. Only the trainer imports this file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from melodac.errors import CheckpointMismatchError, NonFiniteError
from melodac.models.language_model import LanguageModel
from melodac.training.checkpoint import Checkpoint, prune_checkpoints, write_checkpoint
from melodac.training.config import TrainConfig
from melodac.training.ema import ExponentialAverage
from melodac.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from melodac.training.seeding import initial_states


class Best(NamedTuple):
    """The lowest validation loss so far."""

    update: int
    loss: float


class TrainState:
    """Where a run stands."""

    def __init__(self, model: LanguageModel, config: TrainConfig) -> None:
        """Begin at update 0 with the model as it is.

        Args:
            model: The model in training, on its device.
            config: The run.
        """
        self.model = model
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, config)
        self.average = ExponentialAverage(model, config.ema_decay)
        self.generators: dict[str, Tensor] = initial_states(config.seed, "dropout", self.device)
        self.update = 0
        self.num_frames = 0
        self.best: Best | None = None

    def save(self, directory: Path, identity: Mapping[str, Any], *, keep: int) -> Path:
        """Write the checkpoint of this update and drop the oldest ones beyond `keep`.

        Weights that are not finite are never written: `NonFiniteError`.
        """
        self._check_finite()
        tensors = self._weights()
        tensors["optimizer"] = optimizer_tensors(self.optimizer, self.model)
        tensors["generators"] = self.generators
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
        load_optimizer_tensors(self.optimizer, self.model, checkpoint.read_tensors("optimizer"))
        generators = checkpoint.read_tensors("generators")
        if generators.keys() != self.generators.keys():
            raise CheckpointMismatchError(
                f"{checkpoint.folder} was trained on {' and '.join(sorted(generators))}, this run "
                f"is on {' and '.join(sorted(self.generators))}: resume on the same kind of device"
            )
        self.generators = {kind: value.clone() for kind, value in generators.items()}
        self.update = checkpoint.update
        self.num_frames = checkpoint.state["num_frames"]
        best = checkpoint.state["best"]
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
