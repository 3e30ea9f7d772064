"""From weights to a training state and back.

A state begins from a weights folder of ours or from a `.pth` file of the official form, with fresh
optimiser moments. A folder that is written holds the averaged weights in fp16 and their history.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac_import import DacModel
from melodac.codec.training.config import CodecTrainingConfig
from melodac.codec.training.state import SavedCodec, TrainingState
from melodac.codec.weights import (
    WeightsConfig,
    read_official_weights,
    read_weights_folder,
    write_weights_folder,
)
from melodac.errors import CheckpointMismatchError, ConfigError

FRESH = "fresh"
"""Origin of a run that began with random weights."""


@dataclass(frozen=True)
class Beginning:
    """Weights that are trained further."""

    model: nn.Module
    architecture: DacArchitecture
    sha256: str
    """Of the weights file."""
    updates: int = 0
    """Updates made so far, as far as is known."""
    hours: float = 0.0


def read_folder(folder: Path) -> Beginning:
    """Read a weights folder as `export_codec` writes it; errors are those of its reader."""
    model, config = read_weights_folder(folder)
    history = config.training
    return Beginning(
        model,
        config.architecture,
        config.sha256,
        updates=int(history.get("updates", 0)),
        hours=float(history.get("hours", 0.0)),
    )


def read_official(path: Path, sha256: str) -> Beginning:
    """Read a `.pth` file of the official form; errors are those of its reader."""
    model, architecture = read_official_weights(path, sha256)
    return Beginning(model, architecture, sha256)


@torch.no_grad()
def begin(
    state: TrainingState,
    beginning: Beginning,
    architecture: DacArchitecture,
    config: CodecTrainingConfig,
) -> None:
    """Fill a fresh `state` with weights and their history.

    Raises:
        CheckpointMismatchError: The weights are of another architecture.
        ConfigError: The config would fit codebooks anew that these weights already have.
    """
    if beginning.architecture != architecture:
        raise CheckpointMismatchError(
            f"the weights {beginning.sha256[:12]} hold a codec of shape {beginning.architecture}, "
            f"but {architecture} is to be trained; start afresh"
        )
    if config.plain_updates and beginning.updates <= config.plain_updates:
        raise ConfigError(
            f"plain_updates is {config.plain_updates}, so the codebooks of weights with "
            f"{beginning.updates} updates would be thrown away: set it to 0"
        )
    state.model.load_state_dict(beginning.model.state_dict())
    for average, parameter in zip(state.averages, state.model.parameters(), strict=True):
        average.copy_(parameter)
    state.codebooks.start(cast("DacModel", state.model).quantizer)
    state.origin = beginning.sha256
    state.update, state.seconds = beginning.updates, beginning.hours * 3600


def export_codec(saved: SavedCodec, folder: Path, *, name: str, sources: str) -> WeightsConfig:
    """Write the averaged weights of a state to `folder`."""
    return write_weights_folder(
        folder,
        saved.averages,
        saved.architecture,
        name=name,
        training={
            "updates": saved.update,
            "hours": round(saved.seconds / 3600, 2),
            "sources": sources,
            "weights": "exponential moving average",
            "begun_from": saved.origin,
            "discriminator_updates": saved.discriminator_updates,
        },
    )
