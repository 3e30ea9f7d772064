"""`load_codec`: the codec behind a name; the rest of melodac and the pipeline start here."""

from pathlib import Path
from typing import TypedDict

import torch

from melodac.codec.dac import DacCodec
from melodac.codec.download import SHA256, official_weights
from melodac.codec.interface import Codec
from melodac.codec.weights import read_official_weights, read_weights_folder
from melodac.errors import CodecWeightsError

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
WEIGHTS = ("bundled", "44khz")
"""Names of codecs: the small one in this package, and the official DAC (one download)."""


def load_codec(weights: str, device: str = "cpu", *, compiled: bool = False) -> Codec:
    """Load a codec by name, frozen, on a device.

    `compiled` encodes faster from the second chunk on, with equal codes; it pays from an hour of
    audio, needs a CPU and a C++ compiler, and is an error without (`melodac.codec.compiled`).

    Raises:
        CodecWeightsError: The name is unknown, or the weights are missing or not the pinned ones.
    """
    if weights == "bundled":
        return load_codec_folder(BUNDLED_FOLDER, name=weights, device=device, compiled=compiled)
    if weights == "44khz":
        model, architecture = read_official_weights(official_weights(), SHA256)
        options = _speed(device, compiled=compiled)
        return DacCodec(
            model.to(device), architecture, name=weights, weights_sha256=SHA256, **options
        )
    raise CodecWeightsError(f"codec weights {weights!r} are unknown; allowed: {', '.join(WEIGHTS)}")


def load_codec_folder(
    folder: Path, *, name: str, device: str = "cpu", compiled: bool = False
) -> Codec:
    """Load a codec from a folder of `config.json` and `weights.safetensors`."""
    model, config = read_weights_folder(folder)
    options = _speed(device, compiled=compiled)
    return DacCodec(
        model.to(device), config.architecture, name=name, weights_sha256=config.sha256, **options
    )


class _Speed(TypedDict):
    chunk_frames: int
    batch_chunks: int
    is_compiled: bool


def _speed(device: str, *, compiled: bool) -> _Speed:
    """Choose what never changes a code: on a CPU, chunks small enough for its caches."""
    if torch.device(device).type == "cuda":
        return {"chunk_frames": 512, "batch_chunks": 16, "is_compiled": compiled}
    return {"chunk_frames": 256 if compiled else 128, "batch_chunks": 1, "is_compiled": compiled}
