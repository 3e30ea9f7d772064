"""From a training state to a weights folder: the averaged weights, in fp16, with their history."""

from pathlib import Path

import torch

from melodac.codec.architecture import DacArchitecture
from melodac.codec.training.state import TrainingState
from melodac.codec.weights import WeightsConfig, write_weights_folder


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
