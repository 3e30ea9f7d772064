"""`load_codec`: the codec behind a name; the rest of melodac and the pipeline start here."""

from pathlib import Path

import torch

from melodac.codec.dac import DacCodec
from melodac.codec.download import SHA256, official_weights
from melodac.codec.interface import Codec
from melodac.codec.spectral_codec import SpectralCodec
from melodac.codec.weights import read_official_weights, read_weights_folder
from melodac.errors import CodecWeightsError

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
WEIGHTS = ("bundled", "44khz")
"""Names of codecs: the spectral one in this package, and the official DAC (one download)."""


def load_codec(weights: str, device: str = "cpu", *, compiled: bool = False) -> Codec:
    """Load a codec by name, frozen, on a device.

    `compiled` lets a DAC encode faster from the second chunk on, with equal codes; it pays from an
    hour of audio, needs a CPU and a C++ compiler, and is an error without
    (`melodac.codec.compiled`). The bundled codec has nothing to compile.

    Raises:
        CodecWeightsError: The name is unknown, or the weights are missing or not the pinned ones.
    """
    if weights == "bundled":
        return load_codec_folder(BUNDLED_FOLDER, name=weights, device=device)
    if weights == "44khz":
        model, architecture = read_official_weights(official_weights(), SHA256)
        # none of this changes a code: on a CPU, chunks small enough for its caches
        is_cuda = torch.device(device).type == "cuda"
        return DacCodec(
            model.to(device),
            architecture,
            name=weights,
            weights_sha256=SHA256,
            chunk_frames=512 if is_cuda else 256 if compiled else 128,
            batch_chunks=16 if is_cuda else 1,
            is_compiled=compiled,
        )
    raise CodecWeightsError(f"codec weights {weights!r} are unknown; allowed: {', '.join(WEIGHTS)}")


def load_codec_folder(folder: Path, *, name: str, device: str = "cpu") -> SpectralCodec:
    """Load a spectral codec from a folder that `write_weights_folder` wrote."""
    model, config = read_weights_folder(folder)
    return SpectralCodec(
        model.to(device), config.architecture, name=name, weights_sha256=config.sha256
    )
