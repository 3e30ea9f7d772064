"""Codec weights without trust in the file: hash first, no code executed, strict load.

There are two formats: a folder with `config.json` and two safetensors files (a spectral codec of
ours), and the `.pth` of the official release (a DAC's state dict with its constructor arguments).
`DAC.load` is never used: it runs code from the file and ignores missing tensors.
"""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from melodac.codec.architecture import DacArchitecture, build_model
from melodac.codec.spectral_codec import SpectralArchitecture, SpectralModel
from melodac.config import Section
from melodac.errors import CodecWeightsError
from melodac.files import hash_file, whole_file

CONFIG_FILE = "config.json"
QUANTIZER_FILE = "quantizer.safetensors"
DECODER_FILE = "decoder.safetensors"
_IGNORED_ARGUMENTS = frozenset({"quantizer_dropout"})  # matters in training only


class WeightsConfig(Section):
    """Content of `config.json` in the folder of a spectral codec's weights."""

    format_version: Literal[2] = 2
    """Version 2: a quantizer and a decoder, each in its own file. Version 1: a DAC in one file."""
    name: str
    sha256: str
    """Hash of the quantizer's file, in hexadecimal. It identifies the meaning of codes, which a
    better decoder keeps."""
    decoder_sha256: str
    architecture: SpectralArchitecture
    training: dict[str, str | int | float]
    """Origin of the weights; for readers, not for code."""


def read_weights_folder(folder: Path) -> tuple[SpectralModel, WeightsConfig]:
    """Build the model of a folder written by `write_weights_folder`, in fp32.

    Raises:
        CodecWeightsError: A file is missing, damaged, or not what `config.json` pins.
    """
    config = _read_config(folder / CONFIG_FILE)
    model = SpectralModel(config.architecture)
    for file, sha256, part in (
        (QUANTIZER_FILE, config.sha256, model.quantizer),
        (DECODER_FILE, config.decoder_sha256, model.decoder),
    ):
        path = folder / file
        _check_hash(path, sha256)
        try:
            tensors = load_safetensors(path.read_bytes())
        except SafetensorError as error:
            raise CodecWeightsError(f"{path} is not a safetensors file: {error}") from error
        _load_strictly(part, {name: tensor.float() for name, tensor in tensors.items()}, path)
    return model, config


def write_weights_folder(
    folder: Path,
    model: SpectralModel,
    architecture: SpectralArchitecture,
    *,
    name: str,
    training: dict[str, str | int | float],
) -> WeightsConfig:
    """Write a quantizer in fp32, a decoder in fp16, and the config that pins both, written last."""
    quantizer = _dump(model.quantizer.state_dict(), torch.float32)
    decoder = _dump(model.decoder.state_dict(), torch.float16)
    config = WeightsConfig(
        name=name,
        sha256=hashlib.sha256(quantizer).hexdigest(),
        decoder_sha256=hashlib.sha256(decoder).hexdigest(),
        architecture=architecture,
        training=training,
    )
    pinned = (config.model_dump_json(indent=2) + "\n").encode()
    for file, content in (
        (QUANTIZER_FILE, quantizer),
        (DECODER_FILE, decoder),
        (CONFIG_FILE, pinned),
    ):
        with whole_file(folder / file) as partial:
            partial.write_bytes(content)
    return config


def _dump(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
    cast_to = {key: tensor.detach().to("cpu", dtype) for key, tensor in tensors.items()}
    return dump_safetensors({key: tensor.contiguous() for key, tensor in cast_to.items()})


def read_official_weights(path: Path, sha256: str) -> tuple[nn.Module, DacArchitecture]:
    """Build the model of an official `.pth` file.

    Raises:
        CodecWeightsError: The file is missing, not the pinned one, or not plain tensors.
    """
    _check_hash(path, sha256)
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        ValueError,
    ) as error:
        raise CodecWeightsError(
            f"{path} does not hold plain tensors and was not loaded: {error}"
        ) from error
    if not isinstance(content, dict):
        raise CodecWeightsError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    content = cast("dict[str, object]", content)
    architecture = _architecture(content.get("metadata"), path)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise CodecWeightsError(f"{path} has no state_dict")
    model = build_model(architecture)
    _load_strictly(model, cast("dict[str, Tensor]", state), path)
    return model, architecture


def _architecture(metadata: object, path: Path) -> DacArchitecture:
    """Take the constructor arguments that melodac knows, within bounds."""
    kwargs = cast("dict[str, object]", metadata).get("kwargs") if isinstance(metadata, dict) else 0
    if not isinstance(kwargs, dict):
        raise CodecWeightsError(f"{path} does not say how its model is built (metadata.kwargs)")
    known = cast("dict[str, object]", kwargs)
    known = {name: value for name, value in known.items() if name not in _IGNORED_ARGUMENTS}
    if known.get("latent_dim") is None:
        known["latent_dim"] = _default_latent_dim(known)
    try:
        return DacArchitecture.model_validate_json(json.dumps(known))
    except (ValidationError, TypeError) as error:
        raise CodecWeightsError(
            f"{path} asks for a model melodac does not build: {error}"
        ) from error


def _default_latent_dim(kwargs: dict[str, object]) -> object:
    dim, rates = kwargs.get("encoder_dim"), kwargs.get("encoder_rates")
    if isinstance(dim, int) and isinstance(rates, list | tuple):
        return dim * 2 ** min(len(cast("list[object]", rates)), 8)
    return None


def _read_config(path: Path) -> WeightsConfig:
    try:
        return WeightsConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CodecWeightsError(f"{path} is missing: install melodac again") from error
    except ValidationError as error:
        raise CodecWeightsError(f"{path} is not a codec config: {error}") from error


def _check_hash(path: Path, sha256: str) -> None:
    try:
        found = hash_file(path)
    except FileNotFoundError as error:
        raise CodecWeightsError(f"{path} is missing") from error
    if found != sha256.lower():
        raise CodecWeightsError(
            f"{path} has sha256 {found}, but {sha256} is pinned: the file is damaged or another "
            "one; delete it and fetch it again"
        )


def _load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CodecWeightsError(f"{path} does not fit its own architecture: {error}") from error
