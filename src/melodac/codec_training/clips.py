"""Music for codec training: recordings, split into training and held-out, drawn as random crops.

A folder of any audio is read once into memory, at -16 LUFS. Normalised FLAC files of a catalogue
stay on disk, and crops are read by seeking, so a catalogue may be of any size. In a folder a group
(recordings that must not be parted) is held out as a whole, and long training recordings also give
their last seconds. `metadata.csv` names groups in its `file_name` and `group` columns (a file it
does not name is its own group), or sets the split of each file in a `split` column.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from tqdm import tqdm

from melodac.audio.files.read import read_audio
from melodac.audio.level.convert import resample, to_mono
from melodac.audio.level.loudness import measure_loudness
from melodac.codec_training.config import CodecTrainingConfig
from melodac.errors import AudioError, ConfigError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"})
HELD_OUT_SHARE = 0.1
LONG_S = 40.0
"""Duration in seconds from which the end of a training recording is held out."""
LONG_TAIL_S = 12.0
TARGET_LUFS = -16.0
PEAK_CEILING = 0.99
MAX_IN_MEMORY_S = 14_400.0
"""Most seconds of music of one folder held in memory: 2.5 GB at 44.1 kHz."""
_MAX_DURATION_S = 1800.0


@runtime_checkable
class Recording(Protocol):
    """Source of crops, at the codec's sample rate."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    @property
    def held_out(self) -> bool:
        """True if the recording is held out: it is measured and never trained on."""
        ...

    @property
    def num_samples(self) -> int:
        """Samples per channel."""
        ...

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "C N"]:
        """Return samples of all channels; the range lies within the recording."""
        ...


@dataclass(frozen=True)
class Clip:
    """Recording in memory, or a part of one."""

    name: str
    samples: Float32[np.ndarray, " N"]
    held_out: bool

    @property
    def num_samples(self) -> int:
        """Samples per channel."""
        return len(self.samples)

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "1 N"]:
        """Return samples as one channel."""
        return self.samples[None, start:stop]


@dataclass(frozen=True)
class FlacFile:
    """Normalised recording on disk, at the codec's sample rate."""

    path: Path
    name: str
    num_samples: int
    held_out: bool
    gain_db: float

    def read(self, start: int, stop: int) -> Float32[np.ndarray, "C N"]:
        """Read samples of all channels by seeking, which is exact in FLAC.

        Raises:
            AudioError: If the file is shorter than its table says.
        """
        # `audio.read` decodes from the start of a file, too slow for one crop of a long recording
        with soundfile.SoundFile(self.path) as file:
            file.seek(start)
            samples: np.ndarray = file.read(stop - start, dtype="float32", always_2d=True)
        if len(samples) != stop - start:
            raise AudioError(f"{self.path} is shorter than its table says: normalise it again")
        return np.ascontiguousarray(samples.T) * np.float32(10 ** (self.gain_db / 20))


def load_clips(folder: Path, sample_rate_hz: int) -> list[Clip]:
    """Read every audio file under `folder` as mono at the codec's rate and one level.

    Raises:
        ConfigError: The folder holds no audio, or more than fits in memory.
    """
    named = _read_table(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(
            f"no audio under {folder}; allowed suffixes: {', '.join(sorted(SUFFIXES))}"
        )
    clips: list[Clip] = []
    seconds = 0.0
    for path in tqdm(paths, desc=f"reading {folder.name}", unit="file", leave=False):
        name = path.relative_to(folder).as_posix()
        audio, rate_hz = read_audio(path, _MAX_DURATION_S)
        seconds += audio.shape[1] / rate_hz
        if seconds > MAX_IN_MEMORY_S:
            raise ConfigError(
                f"{folder} holds more than {MAX_IN_MEMORY_S / 3600:g} h of music, too much for "
                "memory: ingest and normalise it, and give the folder with the results as source"
            )
        samples = _leveled(resample(to_mono(audio), rate_hz, sample_rate_hz)[0], sample_rate_hz)
        clips += _part(name, samples, sample_rate_hz, named.get(name))
    return clips


class CropSource:
    """Random crops from several lists of recordings, drawn in batches."""

    def __init__(
        self, sources: Sequence[Sequence[Recording]], config: CodecTrainingConfig, length: int
    ) -> None:
        """Use the recordings that are not held out; `length` is the length of a crop in samples."""
        self._config, self._length = config, length
        self._clips = [[clip for clip in clips if not clip.held_out] for clips in sources]
        if not self._clips or not all(self._clips):
            raise ConfigError("nothing to train on: all recordings of a source are held out")
        # longer recordings are drawn more often, so that every second is about as likely
        self._weights = [
            torch.tensor([float(max(clip.num_samples, length)) for clip in clips])
            for clips in self._clips
        ]

    def draw(self, generator: torch.Generator) -> Float[Tensor, "B N"]:
        """Draw one batch; its content depends on the generator's state only."""
        return torch.stack([self._draw_one(generator) for _ in range(self._config.batch_size)])

    def _draw_one(self, generator: torch.Generator) -> Float[Tensor, " N"]:
        if _uniform(generator) < self._config.noise_probability:
            crop = _noise(self._length, generator)
        else:
            crop = self._cut(generator)
        if _uniform(generator) < self._config.mix_probability:
            crop = 0.7 * (crop + self._cut(generator))
        low_db, high_db = self._config.loudness_jitter_db
        gain_db = low_db + (high_db - low_db) * _uniform(generator)
        sign = 1.0 if _uniform(generator) < 0.5 else -1.0
        return (crop * sign * 10 ** (gain_db / 20)).clamp(-1.0, 1.0)

    def _cut(self, generator: torch.Generator) -> Float[Tensor, " N"]:
        share = self._config.first_source_share if len(self._clips) > 1 else 1.0
        first = _uniform(generator) < share
        source = 0 if first else 1 + _index(generator, len(self._clips) - 1)
        pick = int(torch.multinomial(self._weights[source], 1, generator=generator))
        clip = self._clips[source][pick]
        spare = self._length - clip.num_samples
        if spare > 0:
            before = _index(generator, spare + 1)
            samples = _one_channel(clip.read(0, clip.num_samples), generator)
            return torch.nn.functional.pad(samples, (before, spare - before))
        start = _index(generator, -spare + 1)
        return _one_channel(clip.read(start, start + self._length), generator)


def is_held_out(group: str) -> bool:
    """Check if a group is held out: a fixed tenth of all names, chosen by hash."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32 < HELD_OUT_SHARE


def _noise(length: int, generator: torch.Generator) -> Float[Tensor, " N"]:
    """Return noise whose spectrum falls by 0 to 6 dB per octave: white, brown or between."""
    white = torch.randn(length, generator=generator)
    bins = cast("Tensor", torch.fft.rfft(white))  # pyright: ignore[reportUnknownMemberType]
    slope = torch.arange(1, len(bins) + 1) ** -_uniform(generator)
    noise = cast("Tensor", torch.fft.irfft(bins * slope, n=length))  # pyright: ignore[reportUnknownMemberType]
    return noise * (10 ** (TARGET_LUFS / 20) / noise.square().mean().sqrt())


def _one_channel(audio: Float32[np.ndarray, "C N"], generator: torch.Generator) -> Tensor:
    """Return one channel or the mean of all, as the codec gets from stereo in any layout."""
    if len(audio) == 1:
        return torch.as_tensor(audio[0])
    channel = _index(generator, len(audio) + 1)
    return torch.as_tensor(audio.mean(0) if channel == len(audio) else audio[channel])


def _part(
    name: str,
    samples: Float32[np.ndarray, " N"],
    sample_rate_hz: int,
    row: dict[str, str] | None,
) -> list[Clip]:
    """Split a recording into training and held-out parts, by its row or else its group's hash."""
    row = row or {}
    if row.get("split"):
        return [Clip(name, samples, held_out=row["split"] != "train")]
    if is_held_out(row.get("group") or name):
        return [Clip(name, samples, held_out=True)]
    if len(samples) < LONG_S * sample_rate_hz:
        return [Clip(name, samples, held_out=False)]
    tail = round(LONG_TAIL_S * sample_rate_hz)
    return [
        Clip(name, samples[:-tail], held_out=False),
        Clip(name, samples[-tail:], held_out=True),
    ]


def _leveled(samples: Float32[np.ndarray, " N"], sample_rate_hz: int) -> Float32[np.ndarray, " N"]:
    """Scale a recording to `TARGET_LUFS`, or less where it would clip; silence stays silence."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    # measured at full scale, so that a quiet recording is not gated as silence
    loudness_lufs = measure_loudness((samples / peak)[None].astype(np.float32), sample_rate_hz)
    gain = min(10 ** ((TARGET_LUFS - loudness_lufs) / 20), PEAK_CEILING)
    return (samples * (gain / peak)).astype(np.float32)


def _read_table(folder: Path) -> dict[str, dict[str, str]]:
    table = folder / "metadata.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as lines:
        return {row["file_name"]: row for row in csv.DictReader(lines) if row.get("file_name")}


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _index(generator: torch.Generator, size: int) -> int:
    return int(torch.randint(size, (), generator=generator))
