"""Audio for codec training: folders read once into memory, split by group, drawn as random crops.

A group (recordings that must not be parted) is held out as a whole; long recordings also give their
last seconds. `metadata.csv` in a folder names groups by its `file_name` and `group` columns; a file
it does not name is its own group. Only the codec's training imports this.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from tqdm import tqdm

from melodac.audio.channels import to_mono
from melodac.audio.read import read_audio
from melodac.audio.resample import resample
from melodac.codec.training.config import CodecTrainingConfig
from melodac.errors import ConfigError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"})
HELD_OUT_SHARE = 0.1
LONG_S = 40.0
"""Duration from which a recording gives its last seconds to the held-out part."""
LONG_TAIL_S = 12.0
LEVEL_DB = -17.0
"""Root mean square of the loud half, decibels of full scale: about -16 LUFS for music."""
_MAX_DURATION_S = 1800.0


@dataclass(frozen=True)
class Clip:
    """One recording, or a part of one, in memory."""

    name: str
    samples: Float32[np.ndarray, " N"]
    held_out: bool


def load_clips(folder: Path, sample_rate_hz: int) -> list[Clip]:
    """Read every audio file under `folder` as mono at the codec's rate and one level.

    Raises:
        ConfigError: The folder holds no audio.
    """
    groups = _read_groups(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(
            f"no audio under {folder}; allowed suffixes: {', '.join(sorted(SUFFIXES))}"
        )
    clips: list[Clip] = []
    for path in tqdm(paths, desc=f"reading {folder.name}", unit="file", leave=False):
        name = path.relative_to(folder).as_posix()
        audio, rate_hz = read_audio(path, _MAX_DURATION_S)
        samples = resample(to_mono(audio), rate_hz, sample_rate_hz)[0]
        clips += _split(name, groups.get(name, name), _leveled(samples), sample_rate_hz)
    return clips


class CropSource:
    """Draws batches of random crops from several lists of clips."""

    def __init__(self, sources: Sequence[Sequence[Clip]], config: CodecTrainingConfig) -> None:
        self._config = config
        self._clips = [[clip for clip in clips if not clip.held_out] for clips in sources]
        self._weights = [
            torch.tensor([float(max(len(clip.samples), config.crop)) for clip in clips])
            for clips in self._clips
        ]

    def draw(self, generator: torch.Generator) -> Float[Tensor, "B 1 N"]:
        """Draw one batch; its content is a function of the generator's state alone."""
        crops = torch.stack([self._draw_one(generator) for _ in range(self._config.batch_size)])
        return crops[:, None]

    def _draw_one(self, generator: torch.Generator) -> Float[Tensor, " N"]:
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
        samples = torch.as_tensor(self._clips[source][pick].samples)
        spare = self._config.crop - len(samples)
        if spare > 0:
            before = _index(generator, spare + 1)
            return torch.nn.functional.pad(samples, (before, spare - before))
        start = _index(generator, -spare + 1)
        return samples[start : start + self._config.crop]


def is_held_out(group: str) -> bool:
    """Whether a group is held out: a fixed tenth of all names, by hash."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32 < HELD_OUT_SHARE


def _split(
    name: str, group: str, samples: Float32[np.ndarray, " N"], sample_rate_hz: int
) -> list[Clip]:
    if is_held_out(group):
        return [Clip(name, samples, held_out=True)]
    if len(samples) < LONG_S * sample_rate_hz:
        return [Clip(name, samples, held_out=False)]
    tail = round(LONG_TAIL_S * sample_rate_hz)
    return [
        Clip(name, samples[:-tail], held_out=False),
        Clip(name, samples[-tail:], held_out=True),
    ]


def _leveled(samples: Float32[np.ndarray, " N"]) -> Float32[np.ndarray, " N"]:
    """Bring the loud part to `LEVEL_DB`, less where it would clip; silence stays silence."""
    block = 4410
    padded = np.pad(samples, (0, -len(samples) % block))
    power = np.square(padded).reshape(-1, block).mean(1)
    loud = float(np.sqrt(power[power >= np.median(power)].mean()))
    peak = float(np.abs(samples).max(initial=0.0))
    if loud < 1e-5:
        return samples
    return (samples * min(10 ** (LEVEL_DB / 20) / loud, 0.99 / peak)).astype(np.float32)


def _read_groups(folder: Path) -> dict[str, str]:
    table = folder / "metadata.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig") as lines:
        return {
            row["file_name"]: row["group"]
            for row in csv.DictReader(lines)
            if row.get("file_name") and row.get("group")
        }


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _index(generator: torch.Generator, size: int) -> int:
    return int(torch.randint(size, (), generator=generator))
