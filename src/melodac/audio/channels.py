"""From several channels to one; any module above may import it."""

import numpy as np
from jaxtyping import Float32


def to_mono(audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "1 N"]:
    """The mean of the channels: what is in all of them keeps its level, and nothing can clip."""
    if audio.shape[0] == 1:
        return audio
    return audio.mean(axis=0, keepdims=True, dtype=np.float32)
