"""`load_codec`: the codec behind a name; the rest of melodac and the pipeline start here."""

from pathlib import Path

import torch
from torch import nn

from melodac.codec.architecture import DacArchitecture
from melodac.codec.dac import DacCodec
from melodac.codec.download import SHA256, official_weights
from melodac.codec.interface import Codec
from melodac.codec.weights import read_official_weights, read_weights_folder
from melodac.errors import CodecWeightsError

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
WEIGHTS = ("bundled", "44khz")
"""Names of codecs: the small one in this package, and the official DAC (one download)."""


def load_codec(weights: str, device: str = "cpu") -> Codec:
    """Load a codec by name, frozen, on a device.

    Raises:
        CodecWeightsError: The name is unknown, or the weights are missing or not the pinned ones.
    """
    if weights == "bundled":
        return load_codec_folder(BUNDLED_FOLDER, name=weights, device=device)
    if weights == "44khz":
        model, architecture = read_official_weights(official_weights(), SHA256)
        return _frozen(model, architecture, name=weights, sha256=SHA256, device=device)
    raise CodecWeightsError(f"codec weights {weights!r} are unknown; allowed: {', '.join(WEIGHTS)}")


def load_codec_folder(folder: Path, *, name: str, device: str = "cpu") -> Codec:
    """Load a codec from a folder of `config.json` and `weights.safetensors`."""
    model, config = read_weights_folder(folder)
    return _frozen(model, config.architecture, name=name, sha256=config.sha256, device=device)


def _frozen(
    model: nn.Module, architecture: DacArchitecture, *, name: str, sha256: str, device: str
) -> DacCodec:
    on_gpu = torch.device(device).type == "cuda"
    return DacCodec(
        model.to(device),
        architecture,
        name=name,
        weights_sha256=sha256,
        batch_chunks=16 if on_gpu else 1,
    )
