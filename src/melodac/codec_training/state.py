"""State of a codec's training between two updates: one file, replaced whole, never a pickle.

A run starts from such a state, from the weights of a codec, or fresh; its export is weights again.
"""

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melodac.codec.spectral_codec import SpectralArchitecture, SpectralModel
from melodac.codec.weights import WeightsConfig, write_weights_folder
from melodac.codec_training.adversary import Adversary
from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError
from melodac.files import sync, whole_file

FRESH = "fresh"
"""Origin of a run that started without weights."""
_log = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """State of a codec's training between two updates."""

    model: SpectralModel
    averages: list[Tensor]
    """EMA weights, in the order of `model.decoder.parameters()`."""
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    adversary: Adversary | None = None
    is_fitted: bool = False
    """True once the quantizer has been fitted; it never changes afterwards."""
    origin: str = FRESH
    """Origin of the run: `fresh`, or the sha256 of the decoder it started from."""
    update: int = 0
    seconds: float = 0.0
    """Seconds of training so far, over all runs."""


def save_state(path: Path, state: TrainingState, architecture: SpectralArchitecture) -> None:
    """Write the state to a temporary file and rename it, so that `path` is always complete."""
    content = {
        "architecture": architecture.model_dump_json(),
        "model": state.model.state_dict(),
        "averages": state.averages,
        "optimizer": state.optimizer.state_dict(),
        "generator": state.generator.get_state(),
        "adversary": None if state.adversary is None else state.adversary.content(),
        "is_fitted": state.is_fitted,
        "origin": state.origin,
        "update": state.update,
        "seconds": state.seconds,
    }
    with whole_file(path) as partial:
        torch.save(content, partial)
    sync(path.parent)


def load_state(path: Path, state: TrainingState, architecture: SpectralArchitecture) -> None:
    """Fill `state` from `path`; a damaged file raises `CheckpointCorruptError`.

    Raises:
        CheckpointMismatchError: If the file belongs to another architecture.
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
    state.optimizer.load_state_dict(content["optimizer"])
    state.generator.set_state(content["generator"])
    state.is_fitted, state.origin = content["is_fitted"], content["origin"]
    state.update, state.seconds = content["update"], content["seconds"]
    _restore_adversary(state, content["adversary"])


@torch.no_grad()
def begin(state: TrainingState, model: SpectralModel, config: WeightsConfig) -> None:
    """Fill a fresh `state` with the weights of a codec and their history."""
    state.model.load_state_dict(model.state_dict())
    for average, weight in zip(state.averages, state.model.decoder.parameters(), strict=True):
        average.copy_(weight)
    state.is_fitted, state.origin = True, config.decoder_sha256
    state.update = int(config.training.get("updates", 0))
    state.seconds = float(config.training.get("hours", 0.0)) * 3600


def export_state(path: Path, folder: Path, *, name: str, sources: str) -> WeightsConfig:
    """Write the quantizer and the EMA weights of the decoder as a codec."""
    content = _read(path)
    if not content["is_fitted"]:
        raise ConfigError(f"{path} holds a codec whose quantizer is not fitted yet: train on")
    architecture = SpectralArchitecture.model_validate_json(content["architecture"])
    model = SpectralModel(architecture)
    model.load_state_dict(content["model"])
    averages: list[Tensor] = content["averages"]
    for weight, average in zip(model.decoder.parameters(), averages, strict=True):
        weight.data.copy_(average)
    adversary = content["adversary"]
    return write_weights_folder(
        folder,
        model,
        architecture,
        name=name,
        training={
            "updates": content["update"],
            "hours": round(content["seconds"] / 3600, 2),
            "sources": sources,
            "weights": "exponential moving average",
            "begun_from": content["origin"],
            "discriminator_updates": 0 if adversary is None else adversary["updates"],
        },
    )


def read_architecture(path: Path) -> SpectralArchitecture:
    """Return the shape of the codec in a state file."""
    return SpectralArchitecture.model_validate_json(_read(path)["architecture"])


def _read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: nothing was trained there so far") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointCorruptError(
            f"{path} is damaged ({error}); choose another state folder or delete it"
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
