"""Evaluation of a codec on held-out audio: distances per file, use of each codebook.

Distances are told for each part of the spectrum, so that dullness is a number; levels are those of
sines: 0 dB is a full-scale sine. `pipeline/commands/codec.py` writes these as tables.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from melodac.codec.interface import Codec
from melodac.codec_training.clips import Clip
from melodac.codec_training.spectral import spectral_terms, spectrum

EDGES_HZ = (0.0, 500.0, 2000.0, 8000.0, float("inf"))
"""Edges of the bands: bass; the range of melodies; their partials; air."""
WINDOW = 2048
FLOOR_DB = -80.0
"""Level of the quietest partials that count, relative to full scale; quieter ones count as this."""


@dataclass(frozen=True)
class BandReport:
    """Distances of one recording in one band."""

    low_hz: float
    high_hz: float
    distance_db: float
    """Log-spectral distance in dB: root mean square over bins, mean over frames.

    Source: Gray and Markel 1976, "Distance measures for speech processing"."""
    energy_db: float
    """Energy of the reconstruction over that of the source, in dB; below 0 sounds dull."""

    @property
    def label(self) -> str:
        """Name of the band in tables."""
        high = "up" if self.high_hz == float("inf") else f"{self.high_hz:.0f}"
        return f"{self.low_hz:.0f}_{high}_hz"


def measure_bands(
    reconstruction: Float[Tensor, "C N"], target: Float[Tensor, "C N"], sample_rate_hz: int
) -> tuple[BandReport, ...]:
    """Compare two recordings of one length, band by band."""
    full_scale = WINDOW / 4  # magnitude of a sine of amplitude 1 under a Hann window
    ours, theirs = (
        spectrum(audio, WINDOW).abs() / full_scale for audio in (reconstruction, target)
    )
    centers_hz = torch.arange(WINDOW // 2 + 1, device=target.device) * (sample_rate_hz / WINDOW)
    reports: list[BandReport] = []
    for low_hz, high_hz in pairwise(EDGES_HZ):
        inside = (centers_hz >= low_hz) & (centers_hz < high_hz)
        reports.append(
            BandReport(
                low_hz,
                high_hz,
                distance_db=_distance_db(ours[:, inside], theirs[:, inside]),
                energy_db=float(_energy_db(ours[:, inside]) - _energy_db(theirs[:, inside])),
            )
        )
    return tuple(reports)


def _distance_db(ours: Float[Tensor, "C _ T"], theirs: Float[Tensor, "C _ T"]) -> float:
    difference = _decibels(ours) - _decibels(theirs)
    return float(difference.square().mean(1).sqrt().mean())


def _energy_db(magnitudes: Float[Tensor, "C _ T"]) -> Float[Tensor, ""]:
    floor = 10 ** (FLOOR_DB / 20)
    return 10 * (magnitudes.double().square() + floor**2).sum().log10()


def _decibels(magnitudes: Tensor) -> Tensor:
    return 20 * magnitudes.clamp(min=10 ** (FLOOR_DB / 20)).log10()


@dataclass(frozen=True)
class ClipReport:
    """Distances between one recording and its reconstruction."""

    name: str
    duration_s: float
    mel_distance: float
    """Multi-scale log10 mel distance, summed over seven windows, as DAC reports it."""
    magnitude_distance: float
    """Log10 magnitude distance, summed over windows of 512, 1024 and 2048 samples."""
    si_sdr_db: float
    """Scale-invariant signal-to-distortion ratio, decibels."""
    bands: tuple[BandReport, ...]


@dataclass(frozen=True)
class CodebookReport:
    """Usage of one codebook."""

    codebook: int
    used_share: float
    """Share of codes that occur at all."""
    perplexity: float
    """Exponential of the entropy: the effective number of codes."""


def measure_codec(
    codec: Codec, clips: Iterable[Clip]
) -> tuple[list[ClipReport], list[CodebookReport]]:
    """Encode and decode every clip; clips must be longer than the longest window."""
    reports: list[ClipReport] = []
    counts = torch.zeros(codec.num_codebooks, codec.codebook_size, dtype=torch.int64)
    for clip in clips:
        audio = torch.as_tensor(clip.samples)[None]
        codes = codec.encode(audio)
        decoded = codec.decode(codes)[:, : audio.shape[1]]
        _count(codes, counts)
        reports.append(_report(clip.name, decoded, audio, codec.sample_rate_hz))
    return reports, [_codebook_report(index, row) for index, row in enumerate(counts)]


def si_sdr_db(reconstruction: Float[Tensor, "C N"], target: Float[Tensor, "C N"]) -> float:
    """Return the scale-invariant signal-to-distortion ratio in decibels.

    Source: Le Roux et al. 2018, "SDR - half-baked or well done?"; means removed.
    """
    ours = (reconstruction - reconstruction.mean()).double().flatten()
    theirs = (target - target.mean()).double().flatten()
    scale = ours.dot(theirs) / theirs.dot(theirs).clamp(min=1e-12)
    signal = scale * theirs
    noise = (ours - signal).square().sum().clamp(min=1e-12)
    return float(10 * torch.log10(signal.square().sum().clamp(min=1e-12) / noise))


def _report(
    name: str,
    decoded: Float[Tensor, "C N"],
    audio: Float[Tensor, "C N"],
    sample_rate_hz: int,
) -> ClipReport:
    with torch.no_grad():
        terms = spectral_terms(decoded, audio, sample_rate_hz)
    return ClipReport(
        name=name,
        duration_s=audio.shape[1] / sample_rate_hz,
        mel_distance=float(terms.mel),
        magnitude_distance=float(terms.log_magnitude),
        si_sdr_db=si_sdr_db(decoded, audio),
        bands=measure_bands(decoded, audio, sample_rate_hz),
    )


def _count(codes: Int[Tensor, "C K T"], counts: Int[Tensor, "K U"]) -> None:
    for index, row in enumerate(codes.transpose(0, 1).flatten(1)):
        counts[index] += torch.bincount(row, minlength=counts.shape[1])


def _codebook_report(index: int, counts: Int[Tensor, " U"]) -> CodebookReport:
    share = counts.double() / counts.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return CodebookReport(
        codebook=index,
        used_share=float((counts > 0).double().mean()),
        perplexity=float(entropy.exp()),
    )
