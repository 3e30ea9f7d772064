"""Normalizing one file: the codec's rate, one or two channels, one loudness, 24-bit FLAC.

Three passes, none of which holds the track: decode, mix, resample and take the offset out; measure
what lies between the silent ends; write that with one gain. Between passes the samples wait on
disk. Runs in worker processes: light imports only, and the answer is plain data. Any module above
may import it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from melodac.audio.channels import ChannelPolicy, count_mixed, mix
from melodac.audio.dc_blocker import DcBlocker
from melodac.audio.gain import Gain, choose_gain
from melodac.audio.loudness import LoudnessMeter
from melodac.audio.read import AudioFile, open_audio
from melodac.audio.resample import Resampler
from melodac.audio.silence import SoundBounds
from melodac.audio.spool import Spool
from melodac.audio.true_peak import TruePeakMeter
from melodac.audio.write import open_flac
from melodac.durable import hash_file
from melodac.errors import AudioError

LOUDEST_SAMPLE = 1.0e6
"""Nothing a converter or a mix ever gave; what is beyond is damage and would overflow in sums."""


@dataclass(frozen=True)
class NormalizeJob:
    """One file to normalize."""

    source: Path
    """Any readable audio file; it is not changed."""
    destination: Path
    """A FLAC file, written whole or not at all; its folder exists and has room for the samples."""
    track_id: str
    """What the content of `source` must hash to."""


@dataclass(frozen=True)
class NormalizeTarget:
    """What every track is brought to."""

    rate_hz: int
    channels: ChannelPolicy
    target_lufs: float
    max_gain_db: float
    peak_ceiling_dbtp: float
    trim_below_dbfs: float
    keep_silence_s: float
    """What stays of the silence at each end."""


@dataclass(frozen=True)
class NormalizedFile:
    """What was written, and what was done for it."""

    sha256: str
    num_samples: int
    num_channels: int
    start_sample: int
    """The first that was kept, counted in the whole track at the target's rate."""
    gain: Gain


@dataclass(frozen=True)
class Unusable:
    """A file that was fine as it was and is not at the target."""

    reason: str
    """A few words, a colon, and the details."""


class _UnusableError(AudioError):
    """The file of this job cannot be brought to the target."""


def normalize_file(
    job: NormalizeJob, *, target: NormalizeTarget, max_duration_s: float
) -> NormalizedFile | Unusable:
    """Read the source of a job, write it normalized to the destination.

    A source that cannot be decoded to its end and a destination that cannot be written are errors
    (those of `AudioFile.blocks` and `open_flac`): ingest has let this very file pass.

    Args:
        job: What to read, where to write.
        target: What to bring it to.
        max_duration_s: Cap on decoded seconds.

    Raises:
        AudioError: If the source is not the file it was when it was examined.
    """
    try:
        with open_audio(job.source) as file, _open_spool(job, file, target) as spool:
            start, stop = _prepare(file, spool, target, max_duration_s)
            if not hash_file(job.source).startswith(job.track_id):
                raise AudioError(f"{job.source}: changed since ingest, run the ingest stage again")
            gain = _measure(spool, start, stop, target)
            with open_flac(job.destination, target.rate_hz, spool.num_channels) as writer:
                for block in spool.blocks(start, stop):
                    writer.add(block * gain.factor)
    except _UnusableError as error:
        return Unusable(str(error))
    return NormalizedFile(
        sha256=hash_file(job.destination),
        num_samples=stop - start,
        num_channels=spool.num_channels,
        start_sample=start,
        gain=gain,
    )


def _open_spool(job: NormalizeJob, file: AudioFile, target: NormalizeTarget) -> Spool:
    return Spool(job.destination.parent, count_mixed(target.channels, file.info.num_channels))


def _prepare(
    file: AudioFile, spool: Spool, target: NormalizeTarget, max_duration_s: float
) -> tuple[int, int]:
    """Spool the whole track; where its sound starts and stops."""
    bounds = SoundBounds(target.trim_below_dbfs)
    for block in _convert(file, target, max_duration_s):
        bounds.add(block)
        spool.add(block)
    found = bounds.with_margin(round(target.keep_silence_s * target.rate_hz))
    if found is None:
        raise _UnusableError(f"silent: no sample reaches {target.trim_below_dbfs:g} dBFS")
    return found


def _convert(
    file: AudioFile, target: NormalizeTarget, max_duration_s: float
) -> Iterator[Float32[np.ndarray, "C ..."]]:
    """Blocks at the target's rate and channels, without offset."""
    num_channels = count_mixed(target.channels, file.info.num_channels)
    resampler = Resampler(file.info.sample_rate_hz, target.rate_hz, num_channels)
    blocker = DcBlocker(target.rate_hz, num_channels)
    for block in file.blocks(max_duration_s):
        if max(float(block.max()), -float(block.min())) > LOUDEST_SAMPLE:
            raise _UnusableError("damaged: holds samples beyond +120 dBFS")
        try:
            mixed = mix(block, target.channels, container=file.info.container)
        except AudioError as error:
            raise _UnusableError(str(error)) from error
        yield blocker.add(resampler.add(mixed))
    yield blocker.add(resampler.finish())
    yield blocker.finish()


def _measure(spool: Spool, start: int, stop: int, target: NormalizeTarget) -> Gain:
    """The gain for what is kept of the track."""
    meter = LoudnessMeter(target.rate_hz, spool.num_channels)
    true_peak = TruePeakMeter(spool.num_channels)
    for block in spool.blocks(start, stop):
        meter.add(block)
        true_peak.add(block)
    try:
        return choose_gain(
            meter,
            true_peak.peak(),
            target_lufs=target.target_lufs,
            max_gain_db=target.max_gain_db,
            peak_ceiling_dbtp=target.peak_ceiling_dbtp,
        )
    except AudioError as error:
        raise _UnusableError(str(error)) from error
