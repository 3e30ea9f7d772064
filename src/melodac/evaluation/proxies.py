"""Six proxies of the ear: numbers of a clip that a listener would compare, and their distance.

A proxy turns a clip into a few numbers in one unit. Two sets of clips are compared by the energy
distance of these numbers, which is 0 for equal distributions and needs no bandwidth and no fit.
Each proxy depends on the order of frames, since shuffled music has the spectra of music.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import librosa
import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy import signal  # pyright: ignore[reportMissingTypeStubs]  it has none
from scipy.spatial.distance import cdist

from melodac.errors import EvaluationError
from melodac.evaluation.bootstrap import Bootstrap, Estimate, interval
from melodac.evaluation.spectra import (
    LEVEL_HOP,
    PARTIAL_HOP,
    PARTIAL_WINDOW,
    Partials,
    mel_levels,
    track_partials,
)

SHORTEST_S = 1.25
"""Shortest clip in seconds: beats are searched up to a second apart."""


class Proxy(StrEnum):
    """Proxies, in the order of tables."""

    LOG_MEL = "log_mel"
    """Level of each of 40 mel bands: mean, spread, change within 93 ms; dB."""
    CHROMA = "chroma"
    """Share of each pitch class from the strongest on; similarity of frames 0.1 to 1 s apart."""
    ONSET_RATE = "onset_rate"
    """Onsets per second."""
    TEMPO = "tempo"
    """Largest autocorrelation of the onset strength at 0.25 to 1 s."""
    TONAL_SHARE = "tonal_share"
    """Share of frames with a tenth of their power in held partials."""
    HOLD = "hold"
    """Duration of partials in seconds, averaged over time and weighted by amplitude."""


Description = Mapping[Proxy, Float64[np.ndarray, " _"]]

_CHANGE_FRAMES = 8  # 93 ms: two windows of the levels that do not overlap
_ALIKE_S = (0.1, 0.5, 1.0)
_ONSET_PROMINENCE_DB = 2.0
_ONSET_APART_S = 0.05
_BEAT_S = (0.25, 1.0)
_RIPPLE_DB = 0.2  # taken as noise; the onset strength of music varies by 1 to 3 dB
_TONAL_ABOVE_SHARE = 0.1
_SMALLEST = 1e-12


@dataclass(frozen=True)
class ClipSet:
    """Described clips, with the recording of each."""

    descriptions: tuple[Description, ...]
    units: tuple[str, ...]
    """Recording of each clip; a bootstrap resamples recordings, not clips."""


def describe_clip(audio: Float32[np.ndarray, "C N"], *, rate_hz: int) -> Description:
    """Measure every proxy of a clip; silence has no onsets and no tones.

    Raises:
        EvaluationError: If the clip is shorter than `SHORTEST_S`.
    """
    duration_s = audio.shape[1] / rate_hz
    if duration_s < SHORTEST_S:
        raise EvaluationError(
            f"cannot hear a beat in a clip of {duration_s:.2f} s: needs at least {SHORTEST_S:g} s; "
            "raise evaluate.clip_s or give longer recordings"
        )
    levels = mel_levels(audio, rate_hz=rate_hz)
    partials = track_partials(audio, rate_hz=rate_hz)
    strength = librosa.onset.onset_strength(  # pyright: ignore[reportUnknownMemberType]
        S=levels, sr=rate_hz, hop_length=LEVEL_HOP
    )
    return {
        Proxy.LOG_MEL: _describe_levels(levels),
        Proxy.CHROMA: _describe_chroma(partials, rate_hz),
        Proxy.ONSET_RATE: np.array([_count_onsets(strength, rate_hz) / duration_s]),
        Proxy.TEMPO: np.array([_periodicity(strength, rate_hz)]),
        Proxy.TONAL_SHARE: np.array([(partials.held_share > _TONAL_ABOVE_SHARE).mean()]),
        Proxy.HOLD: np.array([_hold_s(partials)]),
    }


def measure_distance(
    proxy: Proxy, clips: ClipSet, truth: ClipSet, bootstrap: Bootstrap
) -> Estimate:
    """Return the distance of two sets of clips by one proxy: 0 if they cannot be told apart.

    The result is the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| in the unit of the proxy.
    Pairs within one unit are left out of every mean, so the distance is 0 on average for equal
    distributions, whatever the number of clips, and may fall a little below. The interval resamples
    the units of both sets.

    Source:
        Szekely and Rizzo 2013, Energy statistics: a class of statistics based on distances,
        Journal of Statistical Planning and Inference 143, definition 1.

    Raises `EvaluationError` for sets from fewer than two units, or with a number that is not
    finite.
    """
    distances = _resample(proxy, clips, truth, bootstrap)
    return Estimate(float(distances[0]), *interval(distances[1:]))


def measure_margin(
    proxy: Proxy, clips: ClipSet, truth: ClipSet, bootstrap: Bootstrap, *, others: ClipSet
) -> Estimate:
    """Measure by how much clips are nearer to the truth than others; above 0 if they are.

    Both distances are drawn with the same resamples of the truth, so what they share cancels: two
    intervals may overlap where the interval of the difference is clear of 0.
    """
    margins = _resample(proxy, others, truth, bootstrap) - _resample(proxy, clips, truth, bootstrap)
    return Estimate(float(margins[0]), *interval(margins[1:]))


def _resample(
    proxy: Proxy, clips: ClipSet, truth: ClipSet, bootstrap: Bootstrap
) -> Float64[np.ndarray, " _"]:
    """Return the distance as it is, then that of every resample."""
    rows, columns = (_matrix(proxy, part) for part in (clips, truth))
    # sets from the same recordings share the draws, as a resampled recording is in both
    stream = 0 if set(clips.units) == set(truth.units) else 1
    of_truth = _draw_weights(truth.units, bootstrap, stream=0)
    of_clips = _draw_weights(clips.units, bootstrap, stream=stream)
    return (
        2 * _mean_over_pairs(cdist(rows, columns), of_clips, of_truth, _differ(clips, truth))
        - _mean_over_pairs(cdist(rows, rows), of_clips, of_clips, _differ(clips, clips))
        - _mean_over_pairs(cdist(columns, columns), of_truth, of_truth, _differ(truth, truth))
    )


def _matrix(proxy: Proxy, clips: ClipSet) -> Float64[np.ndarray, "B _"]:
    if len(set(clips.units)) < 2:
        raise EvaluationError(
            f"a distance needs clips of at least two recordings: got {len(clips.units)} clips of "
            f"{len(set(clips.units))}; add music or raise the share of the split"
        )
    rows = np.stack([description[proxy] for description in clips.descriptions]).astype(np.float64)
    if not np.isfinite(rows).all():
        raise EvaluationError(f"proxy {proxy} of {len(rows)} clips is not finite")
    # root mean square over the numbers of a proxy, so the distance is in the proxy's unit
    return rows / np.sqrt(rows.shape[1])


def _draw_weights(
    units: Sequence[str], bootstrap: Bootstrap, *, stream: int
) -> Float64[np.ndarray, "_ B"]:
    """Return the weight of each clip: 1 in the first row, then its count in each resample."""
    names, unit_of_clip = np.unique(units, return_inverse=True)
    generator = np.random.default_rng([bootstrap.seed, stream])
    chances = np.full(len(names), 1 / len(names))
    drawn = generator.multinomial(len(names), chances, bootstrap.samples)
    return np.concatenate([np.ones((1, len(units))), drawn[:, unit_of_clip]])


def _differ(first: ClipSet, second: ClipSet) -> Float64[np.ndarray, "B _"]:
    return (np.array(first.units)[:, None] != np.array(second.units)[None, :]).astype(np.float64)


def _mean_over_pairs(
    distances: Float64[np.ndarray, "B _"],
    weights: Float64[np.ndarray, "_ B"],
    others: Float64[np.ndarray, "_ _"],
    counts: Float64[np.ndarray, "B _"],
) -> Float64[np.ndarray, " _"]:
    total = np.einsum("ri,ij,rj->r", weights, distances * counts, others, optimize=True)
    pairs = np.einsum("ri,ij,rj->r", weights, counts, others, optimize=True)
    # a resample may hold a single unit, which has no pairs
    return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)


def _describe_levels(levels: Float32[np.ndarray, "_ T"]) -> Float64[np.ndarray, " _"]:
    change = np.abs(levels[:, _CHANGE_FRAMES:] - levels[:, :-_CHANGE_FRAMES])
    parts = [levels.mean(axis=1), levels.std(axis=1), change.mean(axis=1)]
    return np.concatenate(parts).astype(np.float64)


def _describe_chroma(partials: Partials, rate_hz: int) -> Float64[np.ndarray, " _"]:
    frames = librosa.feature.chroma_stft(
        S=partials.power, sr=rate_hz, n_fft=PARTIAL_WINDOW, tuning=0.0, norm=None
    )
    total = frames.sum(axis=0, keepdims=True)
    shares = frames / np.maximum(total, _SMALLEST)
    weights = total[0] / max(float(total.sum()), _SMALLEST)
    profile = shares @ weights
    # rotated to start at the strongest class: a transposition is not different music
    profile = np.roll(profile, -int(profile.argmax()))
    units = shares / np.maximum(np.linalg.norm(shares, axis=0), _SMALLEST)
    lags = [round(seconds * rate_hz / PARTIAL_HOP) for seconds in _ALIKE_S]
    alike = [(units[:, lag:] * units[:, :-lag]).sum(axis=0).mean() for lag in lags]
    return np.array([*profile, *alike], dtype=np.float64)


def _count_onsets(strength: Float[np.ndarray, " T"], rate_hz: int) -> int:
    apart = round(_ONSET_APART_S * rate_hz / LEVEL_HOP)
    found = signal.find_peaks(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        strength, prominence=_ONSET_PROMINENCE_DB, distance=apart
    )
    return len(found[0])  # pyright: ignore[reportUnknownArgumentType]


def _periodicity(strength: Float[np.ndarray, " T"], rate_hz: int) -> float:
    smooth = np.convolve(strength, np.hanning(7)[1:-1] / 3.0, mode="valid")
    similar = librosa.autocorrelate(smooth - smooth.mean())
    num = len(similar)
    # the ripple of a drone may be periodic to the last digit, and is no beat
    whole = similar[0] + num * _RIPPLE_DB**2
    unbiased = similar / whole * num / (num - np.arange(num))
    first, last = (round(seconds * rate_hz / LEVEL_HOP) for seconds in _BEAT_S)
    return float(unbiased[first : last + 1].max())


def _hold_s(partials: Partials) -> float:
    """Return the mean duration of partials, weighted by amplitude at every moment of each."""
    amplitude = np.sqrt(partials.power) * (partials.seconds > 0)
    total = float(amplitude.sum())
    return float((amplitude * partials.seconds).sum()) / total if total > _SMALLEST else 0.0
