"""Writing FLAC and WAV whole or not at all: temporary name, fsync, rename.

The only module that writes through libsndfile; any module above may import it.
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.durable import sync
from melodac.errors import AudioError, OutputError

Subtype = Literal["PCM_16", "PCM_24"]
BLOCK_SAMPLES = 1 << 16
"""Per channel; a single large write has crashed libsndfile for some formats."""


def write_flac(
    path: Path, audio: Float32[np.ndarray, "C N"], rate_hz: int, subtype: Subtype = "PCM_24"
) -> None:
    """Write FLAC; samples past full scale are clipped, as a sound card would."""
    _write(path, audio, rate_hz, container="FLAC", subtype=subtype)


def write_wav(
    path: Path, audio: Float32[np.ndarray, "C N"], rate_hz: int, subtype: Subtype = "PCM_16"
) -> None:
    """Write WAV; samples past full scale are clipped, as a sound card would."""
    _write(path, audio, rate_hz, container="WAV", subtype=subtype)


def _write(
    path: Path, audio: Float32[np.ndarray, "C N"], rate_hz: int, *, container: str, subtype: Subtype
) -> None:
    """Write any container.

    Raises:
        AudioError: If a sample is not finite.
        OutputError: If the place cannot be written.
    """
    if not np.isfinite(audio).all():
        raise AudioError(f"{path}: not written: the audio holds NaN or infinity")
    # the process id: two writers of one file must not share a temporary one
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(partial, audio, rate_hz, container=container, subtype=subtype)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except (OSError, soundfile.LibsndfileError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {_reason(error)}") from error


def _encode(
    path: Path, audio: Float32[np.ndarray, "C N"], rate_hz: int, *, container: str, subtype: Subtype
) -> None:
    num_channels, num_samples = audio.shape
    with (
        # opened here and not by libsndfile, whose message would be "System error"
        path.open("wb+") as raw,
        soundfile.SoundFile(
            raw.fileno(),
            mode="w",
            samplerate=rate_hz,
            channels=num_channels,
            format=container,
            subtype=subtype,
            closefd=False,
        ) as file,
    ):
        for start in range(0, num_samples, BLOCK_SAMPLES):
            file.write(audio[:, start : start + BLOCK_SAMPLES].T)


def _reason(error: OSError | soundfile.LibsndfileError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error.error_string)
