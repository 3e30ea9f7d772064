"""`load_codec`: the codec of a given name.

The official 44.1 kHz DAC weights are fetched once, into the cache that `dac` itself uses. The
download gets a temporary name, is hashed, and only then its final name, so a broken connection or a
foreign file never leaves anything that a later run would trust.
"""

import tempfile
import urllib.request
from pathlib import Path

import torch

from melodac.codec.dac import DacCodec
from melodac.codec.interface import Codec
from melodac.codec.spectral_codec import SpectralCodec
from melodac.codec.weights import read_official_weights, read_weights_folder
from melodac.errors import CodecWeightsError
from melodac.files import hash_file

URL = "https://github.com/descriptinc/descript-audio-codec/releases/download/0.0.1/weights.pth"
SHA256 = "a88eed82a7024ccc1facdb1e605c4c2f99281c8118c22c9895ffa846d8fb61aa"
"""Hash of the released file. The publisher names none; several independent public projects pin this
one for this release. Source: the decoder parity test of vokra, the asset scripts of ZONOS2 ports.
"""
NUM_BYTES = 306_717_287
CACHE_FILE = Path(".cache/descript/dac/weights_44khz_8kbps_0.0.1.pth")
"""Cache file, relative to the home folder. Source: the name used by `python -m dac download`."""
TIMEOUT_S = 30.0
"""Longest wait for the server to send anything, in seconds."""
_BLOCK = 1 << 20


def official_weights(cache: Path | None = None, url: str = URL, sha256: str = SHA256) -> Path:
    """Return the path of the official weights, downloading them if they are not there.

    Args:
        cache: File to keep them in; by default the one of the `dac` package.
        url: URL of the weights.
        sha256: Hash that the file must have.

    Raises:
        CodecWeightsError: If there is no connection, or the file is not the pinned one.
    """
    path = cache if cache is not None else Path.home() / CACHE_FILE
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            temporary = Path(folder) / path.name
            _fetch(url, temporary)
            _check(temporary, url, sha256)
            temporary.replace(path)
    except (OSError, ValueError) as error:
        if isinstance(error, CodecWeightsError):
            raise
        raise CodecWeightsError(
            f"cannot fetch the DAC weights from {url}: {error}. Fetch that file on another machine "
            f"and put it at {path}, or use codec.weights = bundled"
        ) from error
    return path


def has_official_weights() -> bool:
    """Check if the official weights are already on this machine."""
    return (Path.home() / CACHE_FILE).exists()


def _fetch(url: str, path: Path) -> None:
    """Copy a URL to a file, refusing more bytes than the release has."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, path.open("wb") as file:
        received = 0
        while block := response.read(_BLOCK):
            received += len(block)
            if received > NUM_BYTES:
                raise CodecWeightsError(f"{url} sends more than the {NUM_BYTES} bytes expected")
            file.write(block)


def _check(path: Path, url: str, sha256: str) -> None:
    found = hash_file(path)
    if found != sha256:
        raise CodecWeightsError(
            f"{url} gave {path.stat().st_size} bytes with sha256 {found}, but {sha256} is pinned; "
            "nothing was kept: try again, or use codec.weights = bundled"
        )


BUNDLED_FOLDER = Path(__file__).parent / "bundled"
WEIGHTS = ("bundled", "44khz")
"""Names of codecs: the spectral one in this package, and the official DAC (one download)."""


def load_codec(weights: str, device: str = "cpu", *, compiled: bool = False) -> Codec:
    """Load a codec by name, frozen, on a device.

    `compiled` makes a DAC encode faster from the second chunk on, with equal codes; it pays from an
    hour of audio, and raises without a CPU and a C++ compiler (`melodac.codec.exact`). The bundled
    codec has nothing to compile.

    Raises:
        CodecWeightsError: The name is unknown, or the weights are missing or not the pinned ones.
    """
    if weights == "bundled":
        return load_codec_folder(BUNDLED_FOLDER, name=weights, device=device)
    if weights == "44khz":
        model, architecture = read_official_weights(official_weights(), SHA256)
        # neither setting changes a code; on a CPU the chunks fit its caches
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
