"""What the index stage tells about the data: tracks one by one, and how much it is for a model."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from melodac.models.config import SIZES, build_config, count_parameters, vector_dim
from melodac.models.estimates import codes_per_parameter
from melodac.tokens.array import TokenArray
from melodac.tokens.statistics import TrackMeasures, measure_tracks
from melodac.tokens.store.header import CodeVectors
from pipeline.records import TrackRecord

log = logging.getLogger(__name__)
OUTLIERS_LOGGED = 5


class TrackRow(NamedTuple):
    """One line of the table of tracks."""

    id: str
    path: str
    split: str
    frames: int
    windows: int
    """In one epoch; 0 for a track that is too short."""
    nats_under_unigram: float
    entropy_nats: float
    repeated_share: float
    z_score: float
    is_outlier: bool


def tabulate_tracks(
    tracks: Sequence[TrackRecord], codes: TokenArray, windows: Mapping[str, int]
) -> list[TrackRow]:
    """Every track that has codes, in the order given.

    Args:
        tracks: What is in the table.
        codes: Codes of these tracks.
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
    """Name the tracks that are farthest from the others; returns how many are outliers."""
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


def as_csv(rows: Sequence[TrackRow]) -> str:
    """The table as text, the same bytes for the same tracks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TrackRow._fields)
    writer.writerows(rows)
    return text.getvalue()


def describe_sizes(
    num_frames: int, num_codebooks: int, vectors: CodeVectors | None
) -> dict[str, dict[str, Any]]:
    """For every named model: its parameters, and the training codes that each of them has.

    Args:
        num_frames: Frames of the training split.
        num_codebooks: Columns that a model reads.
        vectors: What the codes sound like, which `train.embedding: codec` builds on.
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
