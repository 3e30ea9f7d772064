"""Conversion of channels and sample rate of a recording to those of the codec.

More than two channels are mixed to stereo after ITU-R BS.775-3, table 2: the front pair as it is,
centre and surrounds 3 dB down, the low-frequency channel left out. The order of channels follows
from their number and the container's convention. soxr resamples at its best quality.
"""

import math
from typing import Literal

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.errors import AudioError

QUALITY = "VHQ"


class Resampler:
    """Resampler of a track given block by block.

    The output does not depend on the blocks, to the bit.
    """

    def __init__(self, from_hz: int, to_hz: int, num_channels: int) -> None:
        """Start a track.

        Raises:
            AudioError: If a rate is not positive.
        """
        if from_hz <= 0 or to_hz <= 0:
            raise AudioError(f"sample rates must be above 0 Hz: got {from_hz} and {to_hz}")
        self._rates = f"{from_hz} Hz to {to_hz} Hz"
        self._num_channels = num_channels
        self._stream = (
            None
            if from_hz == to_hz
            else soxr.ResampleStream(from_hz, to_hz, num_channels, dtype="float32", quality=QUALITY)
        )

    def add(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C ..."]:
        """Resample the next samples and return final ones; `AudioError` if not finite."""
        return self._resample(audio, is_last=False)

    def finish(self) -> Float32[np.ndarray, "C ..."]:
        """Return the samples still held back; errors as in `add`."""
        return self._resample(np.zeros((self._num_channels, 0), np.float32), is_last=True)

    def _resample(
        self, audio: Float32[np.ndarray, "C N"], *, is_last: bool
    ) -> Float32[np.ndarray, "C ..."]:
        if self._stream is None or not (audio.shape[1] or is_last):
            return audio
        resampled = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=is_last)
        if not np.isfinite(resampled).all():
            raise AudioError(f"resampling {self._rates} gave NaN or infinity")
        return resampled.T


def resample(
    audio: Float32[np.ndarray, "C N"], from_hz: int, to_hz: int
) -> Float32[np.ndarray, "C ..."]:
    """Resample audio, to `round(N * to_hz / from_hz)` samples within 1.

    Raises as `Resampler` does.
    """
    resampler = Resampler(from_hz, to_hz, audio.shape[0])
    if from_hz == to_hz:
        return audio
    return np.concatenate([resampler.add(audio), resampler.finish()], axis=1)


ChannelPolicy = Literal["mono", "stereo", "keep"]
"""Channels wanted: `mono`: the mean; `stereo`: two, a single one doubled; `keep`: one or two
unchanged."""

STEREO = 2
_LEVEL = 1 / math.sqrt(2)
_LEFT_RIGHT = {
    "FL": (1.0, 0.0), "FR": (0.0, 1.0), "FC": (_LEVEL, _LEVEL), "LF": (0.0, 0.0),
    "SL": (_LEVEL, 0.0), "SR": (0.0, _LEVEL), "BL": (_LEVEL, 0.0), "BR": (0.0, _LEVEL),
    "BC": (0.5, 0.5),
}  # fmt: skip
_WAVE_ORDERS = (
    "FL FR FC",
    "FL FR BL BR",
    "FL FR FC BL BR",
    "FL FR FC LF BL BR",
    "FL FR FC LF BC SL SR",
    "FL FR FC LF BL BR SL SR",
)
"""Channel orders by number of channels. Source: RFC 9639 (FLAC), section 9.1.3; WAV and FFmpeg
agree."""
_VORBIS_ORDERS = (
    "FL FC FR",
    "FL FR BL BR",
    "FL FC FR BL BR",
    "FL FC FR BL BR LF",
    "FL FC FR SL SR BC LF",
    "FL FC FR SL SR BL BR LF",
)
"""Channel orders in Ogg. Source: Vorbis I specification, section 4.3.9; Opus agrees, and libsndfile
does not reorder."""


def to_mono(audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "1 N"]:
    """Return the mean of the channels: common sound keeps its level, and nothing can clip."""
    if audio.shape[0] == 1:
        return audio
    return audio.mean(axis=0, keepdims=True, dtype=np.float32)


def count_mixed(policy: ChannelPolicy, num_channels: int) -> int:
    """Return the number of channels that `mix` makes of so many."""
    return {"mono": 1, "stereo": STEREO, "keep": min(num_channels, STEREO)}[policy]


def mix(
    audio: Float32[np.ndarray, "C N"], policy: ChannelPolicy, *, container: str
) -> Float32[np.ndarray, "..."]:
    """Mix to one or two channels; more than eight to stereo raise `AudioError`.

    Args:
        audio: Audio of any number of channels.
        policy: Channels wanted.
        container: Container of the file, as in `AudioInfo`; Ogg has its own order of channels.
    """
    num_channels = audio.shape[0]
    if policy == "mono":
        return to_mono(audio)
    if num_channels == 1:
        return audio if policy == "keep" else np.repeat(audio, STEREO, axis=0)
    return audio if num_channels == STEREO else _weights(num_channels, container) @ audio


def _weights(num_channels: int, container: str) -> Float32[np.ndarray, "2 C"]:
    orders = _VORBIS_ORDERS if container == "OGG" else _WAVE_ORDERS
    if num_channels > STEREO + len(orders):
        raise AudioError(
            f"channels: {num_channels}, at most {STEREO + len(orders)} have an agreed order "
            "and can be mixed to stereo, set normalize.channels to mono"
        )
    names = orders[num_channels - STEREO - 1].split()
    return np.array([_LEFT_RIGHT[name] for name in names], np.float32).T
