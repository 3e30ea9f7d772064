"""Examination of one file: format, duration, loudness, fingerprint, or why it cannot be used.

Decodes the whole file once, in blocks, so memory is bounded whatever the length. Runs in worker
processes, so imports are light and the result is plain data.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from melodac.audio.files.read import AudioFile, open_audio
from melodac.audio.level.loudness import ABSOLUTE_GATE_LUFS, SILENCE_LUFS, LoudnessMeter
from melodac.audio.metadata.embedded import EmbeddedTags, read_embedded
from melodac.audio.near_duplicates import FingerprintMeter
from melodac.errors import AudioError

ID_DIGITS = 16


@dataclass(frozen=True)
class DurationLimits:
    """Allowed duration of a track, in seconds."""

    min_s: float
    max_s: float


@dataclass(frozen=True)
class Examination:
    """Measurements of a usable file."""

    sha256: str
    """Hash of the file's bytes."""
    audio_sha256: str
    """Hash of the decoded samples, the rate and the number of channels: the same recording in
    another lossless container, or with other tags, has the same."""
    num_samples: int
    """Samples per channel, counted while decoding."""
    sample_rate_hz: int
    num_channels: int
    decoder: str
    loudness_lufs: float
    peak_dbfs: float
    fingerprint: bytes
    """Words of `FingerprintMeter`, little-endian."""
    embedded: EmbeddedTags

    @property
    def track_id(self) -> str:
        """Id of the track: the same bytes have the same id wherever they lie."""
        return self.sha256[:ID_DIGITS]

    @property
    def duration_s(self) -> float:
        """Duration of the decoded audio, in seconds."""
        return self.num_samples / self.sample_rate_hz

    @property
    def words(self) -> UInt32[np.ndarray, " _"]:
        """Fingerprint as numbers."""
        return np.frombuffer(self.fingerprint, "<u4").astype(np.uint32, copy=False)


@dataclass(frozen=True)
class Rejection:
    """Reason why a file cannot be used."""

    reason: str
    """A few words, a colon, and the details; for a musician, without the path."""


def examine_file(path: Path, limits: DurationLimits, sha256: str) -> Examination | Rejection:
    """Decode a file to its end and measure it.

    Args:
        path: A regular file.
        limits: Allowed duration.
        sha256: Hash of the file's bytes, which the caller has computed to see if it is known.
    """
    try:
        with open_audio(path) as file:
            measured = _measure(file, limits)
    except AudioError as error:
        return Rejection(str(error).removeprefix(f"{path}: "))
    if isinstance(measured, Rejection):
        return measured
    return Examination(sha256=sha256, embedded=read_embedded(path), **vars(measured))


@dataclass(frozen=True)
class _Measured:
    audio_sha256: str
    num_samples: int
    sample_rate_hz: int
    num_channels: int
    decoder: str
    loudness_lufs: float
    peak_dbfs: float
    fingerprint: bytes


def _measure(file: AudioFile, limits: DurationLimits) -> _Measured | Rejection:
    rate_hz, num_channels = file.info.sample_rate_hz, file.info.num_channels
    loudness = LoudnessMeter(rate_hz, num_channels)
    fingerprint = FingerprintMeter(rate_hz, num_channels)
    content = hashlib.sha256(f"{rate_hz} Hz, {num_channels} channels".encode())
    num_samples, peak = 0, 0.0
    for block in file.blocks(limits.max_s):
        loudness.add(block)
        fingerprint.add(block)
        # sample by sample over channels, so that blocks leave no trace; + 0.0 turns -0.0 into 0.0
        content.update(np.ascontiguousarray(block.T + np.float32(0.0), "<f4").data)
        num_samples += block.shape[1]
        peak = max(peak, float(np.abs(block).max()))
    duration_s = num_samples / rate_hz
    if duration_s < limits.min_s:
        return Rejection(f"too short: {duration_s:.2f} s, at least {limits.min_s:g} s are needed")
    loudness_lufs = loudness.loudness_lufs()
    if loudness_lufs == SILENCE_LUFS:
        return Rejection(f"silent: never louder than {ABSOLUTE_GATE_LUFS:g} LUFS")
    return _Measured(
        audio_sha256=content.hexdigest(),
        num_samples=num_samples,
        sample_rate_hz=rate_hz,
        num_channels=num_channels,
        decoder=file.info.decoder,
        loudness_lufs=loudness_lufs,
        peak_dbfs=20.0 * math.log10(peak),
        fingerprint=fingerprint.finish().astype("<u4").tobytes(),
    )
