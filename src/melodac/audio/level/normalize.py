"""Normalization of one file: the codec's rate, one or two channels, one loudness, 24-bit FLAC.

Three passes, none of which holds the track: decode, mix, resample and remove the offset; measure
the part between the silent ends; write it with one gain. Between passes the samples are spooled to
disk. Runs in worker processes, so imports are light and the result is plain data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float32
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none

from melodac.audio.files.read import AudioFile, open_audio
from melodac.audio.files.write import Spool, open_flac
from melodac.audio.level.convert import ChannelPolicy, Resampler, count_mixed, mix
from melodac.audio.level.loudness import Gain, LoudnessMeter, TruePeakMeter, choose_gain
from melodac.errors import AudioError
from melodac.files import hash_file

CUTOFF_HZ = 2.0
START_S = 1.0
"""Seconds from which the offset at the start is estimated."""


class DcBlocker:
    """High-pass that removes a track's offset; the output does not depend on the blocks."""

    def __init__(self, rate_hz: int, num_channels: int) -> None:
        self._numerator, self._denominator = cast(Any, signal).butter(
            1, CUTOFF_HZ, "highpass", fs=rate_hz
        )
        self._start_samples = int(START_S * rate_hz)
        self._waiting: Float32[np.ndarray, "C N"] = np.zeros((num_channels, 0), np.float32)
        self._state: Any = None

    def add(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C ..."]:
        """Filter the next samples; nothing is returned before the first second is known."""
        if self._state is None:
            self._waiting = np.concatenate([self._waiting, audio], axis=1)
            if self._waiting.shape[1] < self._start_samples:
                return self._waiting[:, :0]
            audio = self._start()
        return self._filter(audio)

    def finish(self) -> Float32[np.ndarray, "C ..."]:
        """Return the samples still held back: a whole track of less than a second."""
        if self._state is not None or self._waiting.shape[1] == 0:
            return self._waiting[:, :0]
        return self._filter(self._start())

    def _start(self) -> Float32[np.ndarray, "C ..."]:
        held, self._waiting = self._waiting, self._waiting[:, :0]
        # the filter starts as if the offset had lasted forever, which avoids a click at the start
        offset = held[:, : self._start_samples].mean(axis=1, keepdims=True, dtype=np.float64)
        at_rest = cast(Any, signal).lfilter_zi(self._numerator, self._denominator)
        self._state = at_rest * offset
        return held

    def _filter(self, audio: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C N"]:
        filtered, self._state = cast(Any, signal).lfilter(
            self._numerator, self._denominator, audio, axis=1, zi=self._state
        )
        return filtered.astype(np.float32)


class SoundBounds:
    """First and last sample that reach a level in any channel, of a track given block by block."""

    def __init__(self, level_dbfs: float) -> None:
        self._level = 10.0 ** (level_dbfs / 20.0)
        self._first: int | None = None
        self._stop = 0
        self._taken = 0

    def add(self, audio: Float32[np.ndarray, "C N"]) -> None:
        """Add the next samples."""
        is_loud = ((audio >= self._level) | (audio <= -self._level)).any(axis=0)
        if is_loud.any():
            if self._first is None:
                self._first = self._taken + int(is_loud.argmax())
            self._stop = self._taken + audio.shape[1] - int(is_loud[::-1].argmax())
        self._taken += audio.shape[1]

    def with_margin(self, margin: int) -> tuple[int, int] | None:
        """Return start and stop of the sound plus up to `margin` samples; None if silent."""
        if self._first is None:
            return None
        return max(0, self._first - margin), min(self._taken, self._stop + margin)


LOUDEST_SAMPLE = 1.0e6
"""Largest credible sample: no converter or mix exceeds it; damage beyond it would overflow sums."""


@dataclass(frozen=True)
class NormalizeJob:
    """File to normalize."""

    source: Path
    """Source file: any readable audio file; it is not changed."""
    destination: Path
    """FLAC file to write, whole or not at all; its folder exists and has room for the samples."""
    track_id: str
    """Hash prefix that the content of `source` must have."""


@dataclass(frozen=True)
class NormalizeTarget:
    """Target format and level of every track."""

    rate_hz: int
    channels: ChannelPolicy
    target_lufs: float
    max_gain_db: float
    peak_ceiling_dbtp: float
    trim_below_dbfs: float
    keep_silence_s: float
    """Seconds of silence kept at each end."""


@dataclass(frozen=True)
class NormalizedFile:
    """Result of a normalization."""

    sha256: str
    num_samples: int
    num_channels: int
    start_sample: int
    """First sample kept, counted in the whole track at the target's rate."""
    gain: Gain


@dataclass(frozen=True)
class Unusable:
    """Reason why a readable file cannot be brought to the target."""

    reason: str
    """A few words, a colon, and the details."""


class _UnusableError(AudioError):
    """Error: the file of this job cannot be brought to the target."""


def normalize_file(
    job: NormalizeJob, *, target: NormalizeTarget, max_duration_s: float
) -> NormalizedFile | Unusable:
    """Read the source of a job and write it, normalized, to the destination.

    A source that cannot be decoded to its end, or a destination that cannot be written, is an error
    (as in `AudioFile.blocks` and `open_flac`), since ingest has accepted this very file.

    Args:
        job: Source and destination.
        target: Target format and level.
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
    """Spool the whole track; return where its sound starts and stops."""
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
    """Yield blocks at the target's rate and channels, without offset."""
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
    """Return the gain for the part of the track that is kept."""
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
