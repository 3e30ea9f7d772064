"""Normalizing one file: mono, the codec's sample rate, one loudness, written as 24-bit FLAC.

Runs in worker processes: light imports only, and the answer is plain data. Any module above may
import it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from melodac.audio.channels import to_mono
from melodac.audio.loudness import Normalization, normalize_loudness
from melodac.audio.read import open_audio
from melodac.audio.resample import resample
from melodac.audio.write import write_flac
from melodac.durable import hash_file
from melodac.errors import AudioError


@dataclass(frozen=True)
class NormalizeJob:
    """One file to normalize."""

    source: Path
    """Any readable audio file; it is not changed."""
    destination: Path
    """A FLAC file, written whole or not at all."""
    track_id: str
    """What the content of `source` must hash to."""


@dataclass(frozen=True)
class NormalizeTarget:
    """What every track is brought to."""

    rate_hz: int
    loudness_lufs: float
    max_gain_db: float
    peak_ceiling_dbfs: float


@dataclass(frozen=True)
class NormalizedFile:
    """What was written, and what was done for it."""

    num_samples: int
    loudness: Normalization


@dataclass(frozen=True)
class Unusable:
    """A file that was fine as it was and is not as one channel at the target."""

    reason: str


def normalize_file(
    job: NormalizeJob, *, target: NormalizeTarget, max_duration_s: float
) -> NormalizedFile | Unusable:
    """Read the source of a job, write it normalized to the destination.

    A source that cannot be decoded to its end and a destination that cannot be written are errors
    (those of `AudioFile.blocks` and `write_flac`): ingest has let this very file pass.

    Args:
        job: What to read, where to write.
        target: What to bring it to.
        max_duration_s: Cap on decoded seconds.

    Raises:
        AudioError: If the source is not the file it was when it was examined.
    """
    mono, rate_hz = _read_mono(job.source, max_duration_s)
    if not hash_file(job.source).startswith(job.track_id):
        raise AudioError(f"{job.source}: changed since ingest, run the ingest stage again")
    try:
        audio, loudness = normalize_loudness(
            resample(mono, rate_hz, target.rate_hz),
            target.rate_hz,
            target_lufs=target.loudness_lufs,
            max_gain_db=target.max_gain_db,
            peak_ceiling_dbfs=target.peak_ceiling_dbfs,
        )
    except AudioError as error:
        return Unusable(str(error))
    write_flac(job.destination, audio, target.rate_hz, "PCM_24")
    return NormalizedFile(audio.shape[1], loudness)


def _read_mono(path: Path, max_duration_s: float) -> tuple[Float32[np.ndarray, "1 N"], int]:
    # mixed block by block: the channels of a long track are never in memory together
    with open_audio(path) as file:
        blocks = [to_mono(block) for block in file.blocks(max_duration_s)]
        return np.concatenate(blocks, axis=1), file.info.sample_rate_hz
