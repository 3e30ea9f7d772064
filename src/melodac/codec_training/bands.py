"""Distance of a reconstruction from its source by frequency band, which shows dullness.

Used in the codec's report. Levels are those of sines: 0 dB is a full-scale sine.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from melodac.codec_training.spectral import spectrum

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
