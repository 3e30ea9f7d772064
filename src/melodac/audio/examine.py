"""Examining one file: what it is, how long, how loud, or why it cannot be used.

Decodes the whole file in blocks, so memory is bounded whatever the length. Runs in worker
processes: light imports only, and the answer is plain data. Any module above may import it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melodac.audio.loudness import ABSOLUTE_GATE_LUFS, SILENCE_LUFS, LoudnessMeter
from melodac.audio.read import AudioFile, open_audio
from melodac.durable import hash_file
from melodac.errors import AudioError

ID_DIGITS = 16


@dataclass(frozen=True)
class DurationLimits:
    """What a track may last, in seconds."""

    min_s: float
    max_s: float


@dataclass(frozen=True)
class Examination:
    """A file that can be used."""

    sha256: str
    num_samples: int
    """Per channel, counted while decoding."""
    sample_rate_hz: int
    num_channels: int
    loudness_lufs: float
    peak_dbfs: float

    @property
    def track_id(self) -> str:
        """Name of the track: the same bytes have the same name wherever they lie."""
        return self.sha256[:ID_DIGITS]

    @property
    def duration_s(self) -> float:
        """Seconds of decoded sound."""
        return self.num_samples / self.sample_rate_hz


@dataclass(frozen=True)
class Rejection:
    """A file that cannot be used."""

    reason: str
    """A few words, a colon, and the details; for a musician, without the path."""


def examine_file(path: Path, limits: DurationLimits) -> Examination | Rejection:
    """Decode a file to its end and measure it."""
    try:
        with open_audio(path) as file:
            measured = _measure(file, limits)
        sha256 = hash_file(path)
    except AudioError as error:
        return Rejection(str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Rejection(f"cannot be opened: {error.strerror}")
    if isinstance(measured, Rejection):
        return measured
    return Examination(sha256=sha256, **vars(measured))


@dataclass(frozen=True)
class _Measured:
    num_samples: int
    sample_rate_hz: int
    num_channels: int
    loudness_lufs: float
    peak_dbfs: float


def _measure(file: AudioFile, limits: DurationLimits) -> _Measured | Rejection:
    rate_hz, num_channels = file.info.sample_rate_hz, file.info.num_channels
    meter = LoudnessMeter(rate_hz, num_channels)
    num_samples, peak = 0, 0.0
    for block in file.blocks(limits.max_s):
        meter.add(block)
        num_samples += block.shape[1]
        peak = max(peak, float(np.abs(block).max()))
    duration_s = num_samples / rate_hz
    if duration_s < limits.min_s:
        return Rejection(f"too short: {duration_s:.2f} s, at least {limits.min_s:g} s are needed")
    loudness_lufs = meter.loudness_lufs()
    if loudness_lufs == SILENCE_LUFS:
        return Rejection(f"silent: never louder than {ABSOLUTE_GATE_LUFS:g} LUFS")
    return _Measured(num_samples, rate_hz, num_channels, loudness_lufs, 20.0 * math.log10(peak))
