"""Resumable state of a codec training run: one file, replaced atomically, never a pickle executed.

Only the codec's training imports this.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from melodac.codec.architecture import DacArchitecture
from melodac.codec.training.quantizer import Codebooks
from melodac.errors import CheckpointMismatchError


@dataclass
class TrainingState:
    """Everything a run is made of between two updates."""

    model: nn.Module
    averages: list[Tensor]
    """Exponential moving averages, in the order of `model.parameters()`."""
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    codebooks: Codebooks
    update: int = 0
    seconds: float = 0.0
    """Time spent training so far, all runs together."""


def save_state(path: Path, state: TrainingState, architecture: DacArchitecture) -> None:
    """Replace `path` by the current state; the file is complete or the old one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    content = {
        "architecture": architecture.model_dump_json(),
        "model": state.model.state_dict(),
        "averages": state.averages,
        "optimizer": state.optimizer.state_dict(),
        "generator": state.generator.get_state(),
        "codebook_sizes": state.codebooks.sizes,
        "codebook_sums": state.codebooks.sums,
        "recent_latents": state.codebooks.recent,
        "update": state.update,
        "seconds": state.seconds,
    }
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_state(path: Path, state: TrainingState, architecture: DacArchitecture) -> None:
    """Fill `state` from `path`.

    Raises:
        CheckpointMismatchError: The file belongs to another architecture.
    """
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if content["architecture"] != architecture.model_dump_json():
        raise CheckpointMismatchError(
            f"{path} holds a codec of shape {content['architecture']}, but "
            f"{architecture.model_dump_json()} is to be trained; choose another state folder"
        )
    state.model.load_state_dict(content["model"], strict=True)
    for average, saved in zip(state.averages, content["averages"], strict=True):
        average.copy_(saved)
    state.optimizer.load_state_dict(content["optimizer"])
    state.generator.set_state(content["generator"])
    state.codebooks.sizes.copy_(content["codebook_sizes"])
    state.codebooks.sums.copy_(content["codebook_sums"])
    state.codebooks.recent = content["recent_latents"]
    state.update, state.seconds = content["update"], content["seconds"]
