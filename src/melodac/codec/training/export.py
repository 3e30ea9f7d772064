"""From a training state to a weights folder and back.

The folder holds the averaged weights in fp16 and their history; a state begun from it goes on
training them, with fresh optimiser moments.
"""

from pathlib import Path
from typing import cast

import torch

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac_import import DacModel
from melodac.codec.training.state import TrainingState
from melodac.codec.weights import WeightsConfig, read_weights_folder, write_weights_folder
from melodac.errors import CheckpointMismatchError


@torch.no_grad()
def export_codec(
    state: TrainingState, architecture: DacArchitecture, folder: Path, *, sources: str
) -> WeightsConfig:
    """Write the averaged weights of `state` to `folder`."""
    averaged = dict(
        zip(
            (name for name, _ in state.model.named_parameters()),
            state.averages,
            strict=True,
        )
    )
    return write_weights_folder(
        folder,
        averaged,
        architecture,
        name="bundled",
        training={
            "updates": state.update,
            "hours": round(state.seconds / 3600, 2),
            "sources": sources,
            "weights": "exponential moving average",
        },
    )


@torch.no_grad()
def begin_from_export(state: TrainingState, architecture: DacArchitecture, folder: Path) -> None:
    """Fill a fresh `state` with the weights and the history of an exported folder.

    Raises:
        CheckpointMismatchError: The folder holds another architecture.
    """
    model, config = read_weights_folder(folder)
    if config.architecture != architecture:
        raise CheckpointMismatchError(
            f"{folder} holds a codec of shape {config.architecture}, but {architecture} is to be "
            "trained; start afresh"
        )
    state.model.load_state_dict(model.state_dict())
    for average, parameter in zip(state.averages, state.model.parameters(), strict=True):
        average.copy_(parameter)
    state.codebooks.start(cast("DacModel", state.model).quantizer)
    state.update = int(config.training["updates"])
    state.seconds = float(config.training["hours"]) * 3600
