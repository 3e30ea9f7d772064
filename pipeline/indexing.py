"""Bar lines from tags, the table of tracks, and codes per parameter, for the index stage.

Bars are counted from the first sample of the recording as it was ingested: where silence was cut
off, the first bar line lies before the first frame and the next one is taken. Nothing is guessed: a
track without a usable tempo has no bars, and the reason is reported. The table compares each track
with the others; codes per parameter compare the amount of data with each model size.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from melodac.models.config import SIZES, build_config, count_parameters, vector_dim
from melodac.tokens.array import TokenArray
from melodac.tokens.statistics import TrackMeasures, measure_tracks
from melodac.tokens.store.header import CodeVectors, StoreHeader
from melodac.tokens.windows import Bars
from melodac.training.planning.estimates import codes_per_parameter
from pipeline.records import TrackRecord

TEMPO = "tempo_bpm"
"""Tag with the tempo in quarter notes per minute."""
TIME_SIGNATURE = "time_signature"
"""Tag such as `3/4`, or the quarter notes of a bar alone; 4/4 if a track has none."""

MIN_TEMPO_BPM, MAX_TEMPO_BPM = 20.0, 400.0
NO_TEMPO = "no tempo_bpm"
_SIGNATURE = re.compile(r"(\d{1,2})(?:/(1|2|4|8|16))?")
_ALMOST = 1e-6
"""Rounding tolerance, in bars: a line so little before the first sample counts as on it."""


class FoundBars(NamedTuple):
    """Bars of the tracks that have a usable tempo, and why the others have none."""

    bars: dict[str, Bars]
    """Bars by track id."""
    without: dict[str, list[str]]
    """Ids of the tracks without bars, by reason."""
    num_assumed: int
    """Number of tracks with a tempo but no time signature, assumed to be in 4/4."""


def find_bars(
    tracks: Sequence[TrackRecord],
    header: StoreHeader,
    *,
    start_samples: Mapping[str, int],
    num_frames: Mapping[str, int],
) -> FoundBars:
    """Compute the bar lines of each track from its tags, in codec frames.

    Args:
        tracks: Tracks with their tags.
        header: Header of the store, for sample rate and hop.
        start_samples: First kept sample of a track; 0 where none is given.
        num_frames: Frames of each track.
    """
    bars: dict[str, Bars] = {}
    without: dict[str, list[str]] = {}
    num_assumed = 0
    for track in tracks:
        start_s = start_samples.get(track.id, 0) / header.sample_rate_hz
        found = _read_bars(track.tags, start_s, header.sample_rate_hz / header.hop)
        # a window starts on the frame nearest to a bar line, hence half a frame
        if isinstance(found, Bars) and found.first >= num_frames[track.id] - 0.5:
            found = "no bar line inside"
        if isinstance(found, str):
            without.setdefault(found, []).append(track.id)
        else:
            bars[track.id] = found
            num_assumed += TIME_SIGNATURE not in track.tags
    return FoundBars(bars, without, num_assumed)


def _read_bars(tags: Mapping[str, str], start_s: float, frame_rate_hz: float) -> Bars | str:
    if TEMPO not in tags:
        return NO_TEMPO
    tempo_bpm = _read_tempo(tags[TEMPO])
    if tempo_bpm is None:
        return f"{TEMPO} is no number from {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g}"
    quarters = _read_quarters(tags.get(TIME_SIGNATURE, "4/4"))
    if quarters is None:
        return f"{TIME_SIGNATURE} is not like 4/4"
    bar_s = quarters * 60.0 / tempo_bpm
    # the first bar line at or after the first kept sample
    first_s = math.ceil(start_s / bar_s - _ALMOST) * bar_s - start_s
    return Bars(max(first_s, 0.0) * frame_rate_hz, bar_s * frame_rate_hz)


def _read_tempo(text: str) -> float | None:
    try:
        tempo_bpm = float(text)
    except ValueError:
        return None
    return tempo_bpm if MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM else None


def _read_quarters(text: str) -> float | None:
    found = _SIGNATURE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        return None
    return int(found[1]) * 4.0 / int(found[2] or 4)


log = logging.getLogger(__name__)
OUTLIERS_LOGGED = 5


class TrackRow(NamedTuple):
    """Row of the table of tracks."""

    id: str
    path: str
    split: str
    frames: int
    windows: int
    """Windows in one epoch; 0 for a track that is too short."""
    nats_under_unigram: float
    entropy_nats: float
    repeated_share: float
    z_score: float
    is_outlier: bool


def tabulate_tracks(
    tracks: Sequence[TrackRecord], codes: TokenArray, windows: Mapping[str, int]
) -> list[TrackRow]:
    """Build one row per track, in the order given.

    Args:
        tracks: Tracks that have codes.
        codes: Codes of at least these tracks.
        windows: Windows of each track in one epoch; a track without an entry has none.
    """
    array = codes.select([track.id for track in tracks])
    measures = measure_tracks(array)
    return [
        TrackRow(
            track.id,
            track.path,
            track.split,
            int(array.lengths[position]),
            windows.get(track.id, 0),
            **_rounded(measures, position),
        )
        for position, track in enumerate(tracks)
    ]


def log_outliers(rows: Sequence[TrackRow]) -> int:
    """Log the tracks that are farthest from the others; returns the number of outliers."""
    outliers = sorted((row for row in rows if row.is_outlier), key=lambda row: -abs(row.z_score))
    for row in outliers[:OUTLIERS_LOGGED]:
        log.warning(
            "%s is unlike the other tracks: %.2f nats a code under the unigram, %.1f %% of its "
            "frames repeated, robust z-score %.1f",
            row.path,
            row.nats_under_unigram,
            100 * row.repeated_share,
            row.z_score,
        )
    if len(outliers) > OUTLIERS_LOGGED:
        log.warning("and %d more outliers", len(outliers) - OUTLIERS_LOGGED)
    return len(outliers)


def describe_sizes(
    num_frames: int, num_codebooks: int, vectors: CodeVectors | None
) -> dict[str, dict[str, Any]]:
    """Compute the parameters and the training codes per parameter of every named model size.

    Args:
        num_frames: Frames of the training split.
        num_codebooks: Columns that a model reads.
        vectors: Code vectors of the store, from which `train.embedding: codec` builds embeddings.
    """
    width = 0 if vectors is None else vector_dim(vectors.shape[-1])
    configs = {
        size: build_config(
            size,
            num_codebooks=num_codebooks,
            dropout=0.0,
            embedding="codec" if width else "tied",
            vector_dim=width,
        )
        for size in SIZES
    }
    num_codes = num_frames * num_codebooks
    return {
        size: {
            "parameters": count_parameters(config).total,
            "codes_per_parameter": float(f"{codes_per_parameter(config, num_codes=num_codes):.4g}"),
        }
        for size, config in configs.items()
    }


def _rounded(measures: TrackMeasures, position: int) -> dict[str, Any]:
    return {
        "nats_under_unigram": round(float(measures.nats_under_unigram[position]), 5),
        "entropy_nats": round(float(measures.entropy_nats[position]), 5),
        "repeated_share": round(float(measures.repeated_share[position]), 5),
        "z_score": round(float(measures.z_score[position]), 3),
        "is_outlier": bool(measures.is_outlier()[position]),
    }
