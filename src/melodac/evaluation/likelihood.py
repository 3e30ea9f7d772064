"""Likelihood of music that a model was not trained on: nats per code and bits per second.

The score is the training loss on fixed windows that count every frame once. Tracks, not frames, are
the independent samples, so the confidence interval resamples tracks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melodac.evaluation.bootstrap import Bootstrap, Estimate, interval
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import TokenArray
from melodac.tokens.delay import DelayPattern
from melodac.tokens.windows import evaluation_windows
from melodac.training.conditions import Tags
from melodac.training.loss import bits_per_second, score_windows


@dataclass(frozen=True)
class Likelihood:
    """Likelihood of one split under one model."""

    nats: Estimate
    """Nats per code, over all codebooks."""
    nats_per_codebook: tuple[Estimate, ...]
    bits_per_second: Estimate
    """Code length of one second of audio."""
    num_tracks: int
    num_frames: int


def measure_likelihood(
    model: LanguageModel,
    pattern: DelayPattern,
    array: TokenArray,
    *,
    frames: int,
    windows_per_batch: int,
    frame_rate_hz: float,
    bootstrap: Bootstrap,
    tags: Sequence[Tags] = (),
) -> Likelihood:
    """Score every frame of every track.

    Args:
        model: Trained model; dropout is off meanwhile.
        pattern: Delay pattern it was trained with.
        array: Tracks of the split.
        frames: Frames of a window; each is predicted from the earlier ones of its window.
        windows_per_batch: Windows in memory at once; changes no result.
        frame_rate_hz: Codec frames per second.
        bootstrap: Settings of the intervals.
        tags: Tags of each track, for a model that reads them; empty for the null condition.
    """
    windows = evaluation_windows([int(length) for length in array.lengths], frames)
    scores = score_windows(
        model,
        pattern,
        array,
        windows,
        frames=frames,
        windows_per_batch=windows_per_batch,
        tags=tags,
    )
    num_tracks = len(array.lengths)
    nats = np.zeros((num_tracks, pattern.num_codebooks))
    counts = np.zeros((num_tracks, pattern.num_codebooks), dtype=np.int64)
    # add.at, since a track has several windows: plain indexing would keep only the last
    np.add.at(nats, windows.tracks, scores.nats.numpy())
    np.add.at(counts, windows.tracks, scores.counts.numpy())
    draws = _draw_tracks(num_tracks, bootstrap)
    codebooks = tuple(
        _estimate(nats[:, codebook], counts[:, codebook], draws)
        for codebook in range(pattern.num_codebooks)
    )
    mean = _estimate(nats.sum(axis=1), counts.sum(axis=1), draws)
    # every codebook counts the same cells, so bits are the mean times a constant, bounds included
    scale = bits_per_second([1.0] * pattern.num_codebooks, frame_rate_hz)
    return Likelihood(
        nats=mean,
        nats_per_codebook=codebooks,
        bits_per_second=Estimate(
            mean.value * scale,
            None if mean.low is None else mean.low * scale,
            None if mean.high is None else mean.high * scale,
        ),
        num_tracks=num_tracks,
        num_frames=int(counts[:, 0].sum()),
    )


def _draw_tracks(num_tracks: int, bootstrap: Bootstrap) -> NDArray[np.int64] | None:
    if num_tracks < 2:
        return None
    generator = np.random.default_rng(bootstrap.seed)
    return generator.integers(0, num_tracks, size=(bootstrap.samples, num_tracks))


def _estimate(
    nats: NDArray[np.float64], counts: NDArray[np.int64], draws: NDArray[np.int64] | None
) -> Estimate:
    value = float(nats.sum() / counts.sum())
    if draws is None:
        return Estimate(value, None, None)
    means = nats[draws].sum(axis=1) / counts[draws].sum(axis=1)
    return Estimate(value, *interval(means))
