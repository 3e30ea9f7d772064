"""Evaluation of a codec on held-out audio: distances per file, use of each codebook.

`pipeline/commands/codec.py` writes these as tables into the folder of the weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from melodac.codec.interface import Codec
from melodac.codec_training.bands import BandReport, measure_bands
from melodac.codec_training.clips import Clip
from melodac.codec_training.spectral import spectral_terms


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
