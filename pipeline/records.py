"""Typed files that stages exchange: the catalogue, the normalised table, JSON; and outcomes.

Every file is written under a temporary name and then renamed, so a reader never sees half of it.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from melodac.config import Section
from melodac.files import plain_errors, whole_file

Split = Literal["train", "validation", "test"]


class TrackRecord(Section):
    """Accepted track of the catalogue."""

    id: str
    """First 16 hex digits of the file's sha256."""
    path: str
    """Path relative to the source folder, with forward slashes."""
    group: str
    """Name of its group; all recordings of a group are in the same split."""
    split: Split
    duration_s: float
    """Duration measured from decoded samples."""
    sample_rate_hz: int
    num_channels: int
    decoder: str
    """libsndfile, FFmpeg, or codes for a track that was imported."""
    audio_sha256: str
    """Hash of the decoded samples, equal for the same recording in another lossless container; hash
    of the codes for a track that was imported."""
    loudness_lufs: float | None
    """Integrated loudness; None for imported codes."""
    peak_dbfs: float | None
    tags: dict[str, str]
    tag_sources: dict[str, str]
    """Origin of each tag."""
    licence: str
    """Licence; empty if unknown."""


class NormalizedRecord(Section):
    """Result of normalising one track."""

    id: str
    sha256: str
    """Hash of the FLAC file's bytes."""
    num_samples: int
    """Samples per channel, at the codec's rate, without the silence cut from the ends."""
    num_channels: int
    start_sample: int
    """First sample that was kept, counted in the whole track at the codec's rate."""
    gain_db: float
    loudness_before_lufs: float
    """Loudness before, measured at a full-scale peak so that a quiet recording passes the gate."""
    loudness_after_lufs: float
    peak_dbtp: float
    """True peak after the gain."""
    is_gain_capped: bool
    """True if the peak ceiling or the gain cap kept the track below the target loudness."""


@dataclass(frozen=True)
class Outcome:
    """Result of a stage: counts for the log line, numbers for `dvc metrics`."""

    counts: Mapping[str, int]
    """Counts in reading order, e.g. tracks in, tracks out."""
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of items left out, by reason."""
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all; `OutputError` if the place refuses it."""
    with plain_errors(path), whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def format_csv(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Format a table as CSV, the same bytes for the same rows; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: object) -> None:
    """Write JSON, the same bytes for the same value; NaN is refused, write None instead."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401  JSON may hold anything
    """Read a JSON file of an earlier stage."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_catalogue(path: Path, tracks: Sequence[TrackRecord]) -> None:
    """Write the catalogue, sorted by path."""
    _write_table(path, sorted(tracks, key=lambda track: track.path))


def read_catalogue(path: Path) -> list[TrackRecord]:
    """Read the accepted tracks, sorted by path."""
    return [TrackRecord.model_validate(row) for row in _read_rows(path)]


def write_normalized(path: Path, rows: Sequence[NormalizedRecord]) -> None:
    """Write the table of normalised tracks, sorted by id."""
    _write_table(path, sorted(rows, key=lambda row: row.id))


def read_normalized(path: Path) -> list[NormalizedRecord]:
    """Read the normalised tracks, sorted by id."""
    return [NormalizedRecord.model_validate(row) for row in _read_rows(path)]


def _write_table(path: Path, rows: Sequence[TrackRecord] | Sequence[NormalizedRecord]) -> None:
    plain = [_flatten(row.model_dump()) for row in rows]
    with plain_errors(path), whole_file(path, is_synced=False) as partial:
        pq.write_table(pa.Table.from_pylist(plain), partial)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [{key: _unflatten(key, value) for key, value in row.items()} for row in rows]


# Tags differ from track to track and Parquet wants one schema, so mappings are stored as JSON text.
_MAPPINGS = frozenset({"tags", "tag_sources"})


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    return {k: json.dumps(v, sort_keys=True) if k in _MAPPINGS else v for k, v in row.items()}


def _unflatten(key: str, value: Any) -> Any:  # noqa: ANN401  a table cell may be anything
    return json.loads(value) if key in _MAPPINGS else value
