"""Log-mel pictures of clips: small PNGs that can be compared with each other.

Every picture has the same size and the same decibel range, so equal colours mean equal levels on a
whole page. Pixels are coloured through a palette without pyplot, which keeps global state and is
twenty times slower.
"""

from functools import cache
from pathlib import Path

import librosa
import matplotlib
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from melodac.errors import OutputError

WIDTH_PIXELS = 640
"""Columns of a picture; the first and last pixel are the first and last moment of the clip."""

HEIGHT_PIXELS = 96
"""Rows of a picture, one mel band each, low notes at the bottom."""

QUIETEST_DB = -85.0
LOUDEST_DB = -15.0
"""Ends of the colour scale: mean power of a mel band, 0 dB for a full-scale sine in it."""

LOWEST_HZ = 30.0
HIGHEST_HZ = 16_000.0

_NUM_COLOURS = 64  # a step is about 1 dB; more colours double the file and look the same
_WINDOW_SAMPLES = 2048
_SHORTEST_HOP_SAMPLES = 256
_SMALLEST_POWER = 1e-12


def write_spectrogram(path: Path, audio: Float32[np.ndarray, "C N"], *, rate_hz: int) -> None:
    """Write the log-mel spectrogram of a clip as a PNG.

    Args:
        path: File to write; its folder exists.
        audio: Samples, full scale at 1; channels are averaged in power. May be empty.
        rate_hz: Sample rate.

    Raises:
        OutputError: If the file cannot be written.
    """
    image = Image.fromarray(_colour_indices(_mel_decibels(audio, rate_hz)), mode="P")
    image.putpalette(_palette())
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise OutputError(
            f"cannot write the spectrogram {path}: {error.strerror or error}; "
            "check that the folder exists, can be written and has space"
        ) from error


def _mel_decibels(audio: Float32[np.ndarray, "C N"], rate_hz: int) -> Tensor:
    """Return the level of each band (rows, lowest first) at each column, in dB."""
    num_samples = audio.shape[1]
    if not num_samples:
        return torch.full((HEIGHT_PIXELS, WIDTH_PIXELS), QUIETEST_DB)
    # one spectrum a column is enough for a picture and bounds the cost of a long clip
    hop = max(_SHORTEST_HOP_SAMPLES, num_samples // WIDTH_PIXELS)
    window = torch.hann_window(_WINDOW_SAMPLES)
    spectrum = torch.stft(
        torch.as_tensor(audio),
        _WINDOW_SAMPLES,
        hop_length=hop,
        # divided by half its sum, so that a full-scale sine has magnitude 1 at its own bin
        window=window / (window.sum() / 2),
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.abs().square().mean(dim=0)
    bands = torch.as_tensor(_mel_filters(rate_hz)) @ power
    columns = torch.nn.functional.adaptive_avg_pool1d(bands[None], WIDTH_PIXELS)[0]
    return 10.0 * torch.log10(columns + _SMALLEST_POWER)


def _colour_indices(decibels: Tensor) -> UInt8[np.ndarray, "..."]:
    share = (decibels.flip(0) - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB)
    levels = (share.nan_to_num().clamp(0.0, 1.0) * (_NUM_COLOURS - 1)).round()
    return levels.to(torch.uint8).numpy(force=True)


@cache
def _mel_filters(rate_hz: int) -> Float32[np.ndarray, "..."]:
    # called at first use only: librosa sets environment variables when its submodules load
    return librosa.filters.mel(
        sr=rate_hz,
        n_fft=_WINDOW_SAMPLES,
        n_mels=HEIGHT_PIXELS,
        fmin=LOWEST_HZ,
        fmax=min(HIGHEST_HZ, rate_hz / 2),
        norm=None,
    )


@cache
def _palette() -> bytes:
    """Return the colours from quiet to loud; magma is perceptually even, in greyscale too."""
    shares = np.linspace(0.0, 1.0, _NUM_COLOURS)
    rgba = matplotlib.colormaps["magma"](shares, bytes=True)
    return np.asarray(rgba, dtype=np.uint8)[:, :3].tobytes()
