"""Reading metadata.csv and metadata.jsonl beside the music (audio-folder convention).

A row names a file relative to the folder in `file_name`. Names are compared with the files that
were found and never opened, so no row can reach outside. What cannot be used is reported with its
line and never fatal. Missing stays missing. Any module above may import it.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast

from melodac.errors import AudioError

NAME_COLUMN = "file_name"
GROUP_COLUMN = "group"
LICENCE_COLUMNS = ("licence", "license")
MAX_SIZE_BYTES = 1 << 28

Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class TrackMetadata:
    """What is known of one file."""

    group: str = ""
    licence: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """For each tag, and for group and licence, the metadata file it came from."""


class _RowError(AudioError):
    """One row cannot be used; the others can."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_metadata(
    root: Path, names: Sequence[str], known_paths: Set[str]
) -> tuple[dict[str, TrackMetadata], list[str]]:
    """What the metadata files say of each known path, and the rows that could not be used.

    Args:
        root: The folder of music.
        names: Metadata files in it; what an earlier one says stands.
        known_paths: Audio files found, relative to the folder.
    """
    fields: dict[str, dict[str, tuple[str, str]]] = {}
    problems: list[str] = []
    for name in names:
        try:
            rows = _read_rows(root / name)
        except AudioError as error:
            problems.append(f"{name}: {error}")
            continue
        for path, row in _usable_rows(name, rows, known_paths, problems):
            known = fields.setdefault(path, {})
            for key, value in row.items():
                known.setdefault(key, (value, name))
    return {path: _to_metadata(known) for path, known in sorted(fields.items())}, problems


def _usable_rows(
    name: str, rows: Iterator[Row], known_paths: Set[str], problems: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    seen: dict[str, int] = {}
    while True:
        try:
            line, row = next(rows)
            path = _check_name(line, row.pop(NAME_COLUMN, ""), known_paths, seen)
        except StopIteration:
            return
        except _RowError as error:
            problems.append(f"{name} line {error.line}: {error}, row not used")
            continue
        seen[path] = line
        yield path, row


def _check_name(line: int, file_name: str, known_paths: Set[str], seen: Mapping[str, int]) -> str:
    if not file_name:
        raise _RowError(line, f"no {NAME_COLUMN}")
    parts = PurePosixPath(file_name)
    if parts.is_absolute() or ".." in parts.parts:
        raise _RowError(line, f"{file_name!r} points outside the folder")
    if str(parts) not in known_paths:
        raise _RowError(line, f"{file_name!r} is not an audio file in the folder")
    if str(parts) in seen:
        raise _RowError(line, f"{file_name!r} is described in line {seen[str(parts)]} already")
    return str(parts)


def _read_rows(path: Path) -> "_Rows":
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_SIZE_BYTES:
            raise AudioError(f"not used: {size_bytes} bytes, at most {MAX_SIZE_BYTES} are read")
        text = path.read_bytes().decode("utf-8-sig")  # -sig: spreadsheets write a BOM
    except OSError as error:
        raise AudioError(f"not used: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AudioError(f"not used: not UTF-8 text (byte {error.start}), save as UTF-8") from error
    return _CsvRows(text) if path.suffix == ".csv" else _JsonRows(text)


class _Rows(Iterator[Row]):
    """An iterator that a faulty row does not end, unlike a generator."""


class _CsvRows(_Rows):
    def __init__(self, text: str) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""))
        try:
            self._header: list[str] = next(iter(self._reader), list[str]())
        except csv.Error as error:
            raise AudioError(f"not used: not CSV: {error}") from error
        if NAME_COLUMN not in self._header:
            found = ", ".join(self._header)[:100]
            raise AudioError(f"not used: no column {NAME_COLUMN!r}, its columns are: {found}")
        if len(set(self._header)) < len(self._header):
            raise AudioError("not used: two columns have one name")

    def __next__(self) -> Row:
        try:
            cells = next(self._reader)
            while not cells:
                cells = next(self._reader)
        except csv.Error as error:
            raise _RowError(self._reader.line_num, f"not CSV: {error}") from error
        if len(cells) > len(self._header):
            columns = len(self._header)
            message = f"{len(cells)} cells for {columns} columns"
            raise _RowError(self._reader.line_num, message)
        pairs = zip(self._header, cells, strict=False)  # a short row leaves fields missing
        row = {key.strip(): cell.strip() for key, cell in pairs}
        return self._reader.line_num, {key: cell for key, cell in row.items() if key and cell}


class _JsonRows(_Rows):
    def __init__(self, text: str) -> None:
        # not splitlines(): it also splits at characters that JSON strings may hold
        self._lines = iter(enumerate(text.split("\n"), start=1))

    def __next__(self) -> Row:
        line, text = next(self._lines)
        while not text.strip():
            line, text = next(self._lines)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _RowError(line, f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise _RowError(line, f"expected an object, got {type(value).__name__}")
        fields = cast(dict[str, object], value)
        row = {key.strip(): _to_text(entry).strip() for key, entry in fields.items()}
        return line, {key: entry for key, entry in row.items() if key and entry}


def _to_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_to_text(item) for item in cast(list[object], value))
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    # JSON can spell half a character, which no UTF-8 file can hold
    return text.encode("utf-8", "replace").decode("utf-8")


def _to_metadata(known: dict[str, tuple[str, str]]) -> TrackMetadata:
    fields = dict(known)
    for other_spelling in LICENCE_COLUMNS[1:]:
        if other_spelling in fields:
            fields.setdefault(LICENCE_COLUMNS[0], fields.pop(other_spelling))
    sources = {key: source for key, (_, source) in sorted(fields.items())}
    group, _ = fields.pop(GROUP_COLUMN, ("", ""))
    licence, _ = fields.pop(LICENCE_COLUMNS[0], ("", ""))
    tags = {key: value for key, (value, _) in sorted(fields.items())}
    return TrackMetadata(group=group, licence=licence, tags=tags, sources=sources)
