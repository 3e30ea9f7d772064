"""From the channels of a recording to one or two; any module above may import it.

More than two channels are mixed to stereo after ITU-R BS.775-3, table 2: the front pair as it is,
centre and surrounds 3 dB down, the low-frequency channel left out. Which channel is which follows
from their number and the container's custom.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float32

from melodac.errors import AudioError

ChannelPolicy = Literal["mono", "stereo", "keep"]
"""`mono`: the mean; `stereo`: two, a single one doubled; `keep`: one or two as they are."""

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
"""Source: RFC 9639 (FLAC), section 9.1.3; WAV and FFmpeg agree."""
_VORBIS_ORDERS = (
    "FL FC FR",
    "FL FR BL BR",
    "FL FC FR BL BR",
    "FL FC FR BL BR LF",
    "FL FC FR SL SR BC LF",
    "FL FC FR SL SR BL BR LF",
)
"""Source: Vorbis I specification, section 4.3.9; Opus agrees, and libsndfile does not reorder."""


def to_mono(audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "1 N"]:
    """The mean of the channels: what is in all of them keeps its level, and nothing can clip."""
    if audio.shape[0] == 1:
        return audio
    return audio.mean(axis=0, keepdims=True, dtype=np.float32)


def count_mixed(policy: ChannelPolicy, num_channels: int) -> int:
    """How many channels `mix` makes of so many."""
    return {"mono": 1, "stereo": STEREO, "keep": min(num_channels, STEREO)}[policy]


def mix(
    audio: Float32[np.ndarray, "C N"], policy: ChannelPolicy, *, container: str
) -> Float32[np.ndarray, "..."]:
    """One or two channels; more than eight, of which stereo is wanted, are an `AudioError`.

    Args:
        audio: Sound of any number of channels.
        policy: What is wanted.
        container: Of the file, as in `AudioInfo`; in OGG channels have an order of their own.
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
