"""Resumable state of a codec training run: one file, replaced atomically, never a pickle executed.

Only the codec's training imports this.
"""

import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.training.adversary import Adversary
from melodac.codec.training.quantizer import Codebooks
from melodac.durable import sync
from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError

_log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """Everything a run is made of between two updates."""

    model: nn.Module
    averages: list[Tensor]
    """Exponential moving averages, in the order of `model.parameters()`."""
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    codebooks: Codebooks
    adversary: Adversary | None = None
    is_encoder_fixed: bool = False
    """Whether encoder and quantiser rest at their averages."""
    origin: str = ""
    """What the run began from: `fresh`, or the sha256 of a weights file; empty if not known."""
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
        "adversary": None if state.adversary is None else state.adversary.content(),
        "is_encoder_fixed": state.is_encoder_fixed,
        "origin": state.origin,
        "update": state.update,
        "seconds": state.seconds,
    }
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def load_state(path: Path, state: TrainingState, architecture: DacArchitecture) -> None:
    """Fill `state` from `path`, which may be damaged: a `CheckpointCorruptError`.

    Raises:
        CheckpointMismatchError: The file belongs to another architecture, or its codebooks learned
            in the other way.
    """
    content = _read(path)
    if content["architecture"] != architecture.model_dump_json():
        raise CheckpointMismatchError(
            f"{path} holds a codec of shape {content['architecture']}, but "
            f"{architecture.model_dump_json()} is to be trained; choose another state folder"
        )
    state.model.load_state_dict(content["model"], strict=True)
    for average, saved in zip(state.averages, content["averages"], strict=True):
        average.copy_(saved)
    _restore_optimizer(state.optimizer, content["optimizer"], path)
    state.generator.set_state(content["generator"])
    state.codebooks.sizes.copy_(content["codebook_sizes"])
    state.codebooks.sums.copy_(content["codebook_sums"])
    state.codebooks.recent = content["recent_latents"]
    state.update, state.seconds = content["update"], content["seconds"]
    # older states know no discriminators, no resting encoder and not where they began
    state.is_encoder_fixed = content.get("is_encoder_fixed", False)
    state.origin = content.get("origin", "")
    _restore_adversary(state, content.get("adversary"))


@dataclass(frozen=True)
class SavedCodec:
    """What a state file holds of the codec itself."""

    architecture: DacArchitecture
    averages: dict[str, Tensor]
    """Averaged weights by parameter name."""
    origin: str
    update: int
    seconds: float
    discriminator_updates: int


def read_saved_codec(path: Path) -> SavedCodec:
    """Read the codec in a state file, without building a trainer."""
    content = _read(path)
    architecture = DacArchitecture.model_validate_json(content["architecture"])
    names = (name for name, _ in build_model(architecture).named_parameters())
    adversary = content.get("adversary")
    return SavedCodec(
        architecture,
        averages=dict(zip(names, content["averages"], strict=True)),
        origin=content.get("origin", ""),
        update=content["update"],
        seconds=content["seconds"],
        discriminator_updates=0 if adversary is None else adversary["updates"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: nothing was trained there so far") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointCorruptError(
            f"{path} is damaged ({error}); choose another state folder or delete it"
        ) from error


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, content: dict[str, Any], path: Path
) -> None:
    try:
        optimizer.load_state_dict(content)
    except ValueError as error:
        raise CheckpointMismatchError(
            f"{path} was trained with the other setting of `codebooks`; keep it, or go on from an "
            "export in another state folder"
        ) from error


def _restore_adversary(state: TrainingState, content: dict[str, Any] | None) -> None:
    if state.adversary is None:
        if content is not None:
            _log.warning("discriminators are switched off: those of the state are dropped")
    elif content is None:
        _log.info("the state holds no discriminators: they begin afresh")
    elif not state.adversary.fits(content):
        _log.warning("the state holds discriminators of another shape: new ones begin afresh")
    else:
        state.adversary.restore(content)
