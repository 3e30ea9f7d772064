"""What stages hand each other on disk, typed: the catalogue, the normalised table, JSON, outcomes.

Every file is written whole under a temporary name and then renamed, so a reader never meets half.
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
    """One accepted track of the catalogue."""

    id: str
    """First 16 hex digits of the file's sha256."""
    path: str
    """Relative to the source folder, with forward slashes."""
    group: str
    """Recordings that must not be parted by a split."""
    split: Split
    duration_s: float
    """Measured from decoded samples."""
    sample_rate_hz: int
    num_channels: int
    decoder: str
    """libsndfile or FFmpeg."""
    audio_sha256: str
    """Of the decoded samples: the same recording in another lossless container has the same."""
    loudness_lufs: float | None
    """None for codes that came without sound."""
    peak_dbfs: float | None
    tags: dict[str, str]
    tag_sources: dict[str, str]
    """For each tag the file it came from."""
    licence: str
    """Empty if unknown."""


class NormalizedRecord(Section):
    """What normalisation did to one track."""

    id: str
    sha256: str
    """Of the FLAC file's bytes."""
    num_samples: int
    """Per channel, at the codec's rate, without the silence cut from the ends."""
    num_channels: int
    start_sample: int
    """The first that was kept, counted in the whole track at the codec's rate."""
    gain_db: float
    loudness_before_lufs: float
    """Measured with the peak at full scale, so that a quiet recording is not gated as silence."""
    loudness_after_lufs: float
    peak_dbtp: float
    """True peak afterwards."""
    is_gain_capped: bool
    """True where the peak ceiling or the gain cap kept the target out of reach."""


@dataclass(frozen=True)
class Outcome:
    """What a stage did: counts for the log line, numbers for `dvc metrics`."""

    counts: Mapping[str, int]
    """In reading order, e.g. tracks in, tracks out."""
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    """For each reason, how many were left out."""
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
    """Write JSON that is the same bytes for the same value; NaN is refused, write None instead."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401  JSON may hold anything
    """The value a JSON file of an earlier stage holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_catalogue(path: Path, tracks: Sequence[TrackRecord]) -> None:
    """Write the catalogue, sorted by path."""
    _write_table(path, sorted(tracks, key=lambda track: track.path))


def read_catalogue(path: Path) -> list[TrackRecord]:
    """The accepted tracks, sorted by path."""
    return [TrackRecord.model_validate(row) for row in _read_rows(path)]


def write_normalized(path: Path, rows: Sequence[NormalizedRecord]) -> None:
    """Write the table of normalised tracks, sorted by id."""
    _write_table(path, sorted(rows, key=lambda row: row.id))


def read_normalized(path: Path) -> list[NormalizedRecord]:
    """The normalised tracks, sorted by id."""
    return [NormalizedRecord.model_validate(row) for row in _read_rows(path)]


def _write_table(path: Path, rows: Sequence[TrackRecord] | Sequence[NormalizedRecord]) -> None:
    plain = [_flatten(row.model_dump()) for row in rows]
    with plain_errors(path), whole_file(path, is_synced=False) as partial:
        pq.write_table(pa.Table.from_pylist(plain), partial)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(path).to_pylist()
    return [{key: _unflatten(key, value) for key, value in row.items()} for row in rows]


# Tags differ from track to track; parquet wants one schema, so mappings travel as JSON text.
_MAPPINGS = frozenset({"tags", "tag_sources"})


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    return {k: json.dumps(v, sort_keys=True) if k in _MAPPINGS else v for k, v in row.items()}


def _unflatten(key: str, value: Any) -> Any:  # noqa: ANN401  a table cell may be anything
    return json.loads(value) if key in _MAPPINGS else value
