"""State of a run between two updates: its contents, checkpoints on disk, and their retention.

Learning rate, windows and all random draws are functions of the seed and the update number, so
weights, EMA weights, optimizer state and a few numbers are the whole state. Fields that must match
to resume are written with a checkpoint; how often to save and how many to keep may change.

Two checkpoints stay on disk whatever the limits, since a damaged one needs a predecessor. So does
the newest healthy one, written after an accepted update, the only kind worth rolling back to.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from melodac.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    DivergenceError,
    NonFiniteError,
    OutputError,
)
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import Starts
from melodac.training.checkpoint import (
    Checkpoint,
    load_weights,
    numbered_checkpoints,
    open_checkpoint,
    remove_checkpoint,
    whole_tensor,
    write_checkpoint,
)
from melodac.training.config import TrainConfig
from melodac.training.data import TrainingData
from melodac.training.distributed import Ranks
from melodac.training.optimizer import ExponentialAverage, build_optimizer

_MAY_CHANGE = {"checkpoint_every", "keep_checkpoints", "keep_checkpoints_mb"}
"""Keys of `TrainConfig` that may differ between a checkpoint and the run that resumes it."""


def describe_identity(
    identity: Mapping[str, Any],
    model: LanguageModel,
    pattern: DelayPattern,
    *,
    data: TrainingData,
    config: TrainConfig,
) -> dict[str, Any]:
    """Return the identity of a run: the fields that must match to resume a checkpoint.

    Args:
        identity: Fields that only the caller knows: codec, fingerprint of the data, code version.
        model: Model, which contributes its shape and code vectors.
        pattern: Delay pattern of the codes.
        data: Data, which contribute the length and the starts of windows.
        config: Config of the run.
    """
    return {
        **identity,
        "model": model.config.model_dump(mode="json"),
        "vectors_sha256": model.vectors_sha256,
        "delay": {
            "name": pattern.name,
            "delays": list(pattern.delays),
            "is_flat": pattern.is_flat,
        },
        "window_frames": data.window_frames,
        "starts": _describe(data.starts),
        "train": config.model_dump(mode="json", exclude=_MAY_CHANGE),
    }


def hash_identity(identity: Mapping[str, Any]) -> str:
    """Return a short hash of an identity, for processes to compare."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _describe(starts: Starts) -> dict[str, Any]:
    digest = hashlib.sha256(repr(starts.bars).encode()).hexdigest() if starts.bars else None
    return {"is_fixed": starts.is_fixed, "bars_sha256": digest}


ALWAYS_KEPT = 2
"""Number of newest checkpoints that no limit removes."""


def prune_checkpoints(directory: Path, *, keep: int, keep_mb: int = 0) -> None:
    """Remove old checkpoints, oldest first, until both limits hold.

    Args:
        directory: Folder of the checkpoints.
        keep: Most checkpoints, not counting the newest healthy one if it is older.
        keep_mb: Most megabytes (1e6 bytes) of checkpoints older than the newest two; 0 sets no
            limit.

    Raises:
        OutputError: If an old checkpoint cannot be removed.
    """
    newest_first = list(reversed(numbered_checkpoints(directory)))
    healthy = next((folder for folder in newest_first if is_healthy(folder)), None)
    size_bytes = 0
    try:
        for position, folder in enumerate(newest_first):
            if position < ALWAYS_KEPT:
                continue
            size_bytes += sum(path.stat().st_size for path in folder.glob("*"))
            is_within = position < keep and (not keep_mb or size_bytes <= keep_mb * 1_000_000)
            if not is_within and folder != healthy:
                remove_checkpoint(folder)
    except OSError as error:
        raise OutputError(f"old checkpoints in {directory} cannot be removed: {error}") from error


def choose_rollback(directory: Path, *, below: int | None = None) -> Checkpoint:
    """Open the checkpoint to roll back to: the newest that is valid and healthy.

    Args:
        directory: Folder of the checkpoints.
        below: Take one older than this update, if there is one: the run rolled back to it already
            and it did not help.

    Raises:
        DivergenceError: If none is both valid and healthy.
    """
    healthy = [folder for folder in numbered_checkpoints(directory) if is_healthy(folder)]
    older = [folder for folder in healthy if below is None or int(folder.name) < below]
    for folder in reversed(older or healthy[:1]):
        try:
            return open_checkpoint(folder)
        except CheckpointCorruptError:
            continue
    raise DivergenceError(
        f"{directory} holds no checkpoint that is valid and was written in good health, so the run "
        "cannot go back: lower train.learning_rate and start afresh"
    )


def is_healthy(folder: Path) -> bool:
    """Check if a checkpoint was written after an accepted update; False for a damaged one.

    Only that one entry is read; `open_checkpoint` verifies the bytes.
    """
    try:
        state: Any = json.loads((folder / "state.json").read_bytes())
        return state["stability"]["is_healthy"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


RANDOM_SCHEME = "sha256 of seed, purpose, update, item"
"""Scheme of all random draws of a run; a checkpoint with another scheme is another run."""


@runtime_checkable
class Remembers(Protocol):
    """Part of the trainer with state from update to update."""

    def state(self) -> dict[str, Any]:
        """Return its state, as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        ...


class Best(NamedTuple):
    """Lowest validation loss so far."""

    update: int
    loss: float


class TrainState:
    """State of a run between two updates."""

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
            model: Model in training, on its device, sharded if it is to be.
            average: Its EMA weights, sharded in the same way.
            config: Config of the run.
            memories: Parts of the trainer with state, by name.
            ranks: Processes of the run; the first writes.
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
        """Write the checkpoint of this update and remove the oldest ones beyond the limits.

        Weights that are not finite are never written and raise `NonFiniteError`.
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
        """Write weights and EMA weights only; the newest such folder is the best so far."""
        self._write(directory, self._weights(), identity)
        self._ranks.from_first(lambda: prune_checkpoints(directory, keep=2))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint.

        Raises:
            CheckpointMismatchError: If its tensors do not fit the model, or an entry is missing.
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
        """Restore weights, EMA weights and optimizer state of a checkpoint, and nothing else."""
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
        """True if every weight is finite; all processes must ask."""
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
