"""Metadata of a folder of music, and the precedence of their sources.

    nearest table > tables above it > song.json > song_prompt.txt > song.txt > embedded tags

Files written for this collection take precedence over what came with an audio file.

Tables are metadata.csv and metadata.jsonl in any folder (audio-folder convention). A row names a
file relative to the table's own folder in `file_name`. Names are only compared with the files that
were found, so no row can reach outside. Unusable rows are reported with their line and never fatal.
Side-cars share the stem of one audio file and describe it alone: `song.json` holds fields as
AudioCraft writes them, `song_prompt.txt` and `song.txt` the description. The audio file's own name
is no metadata.
"""

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from melodac.audio.metadata.embedded import EmbeddedTags
from melodac.audio.metadata.fields import (
    DESCRIPTION,
    FILE_NAME,
    Pairs,
    Statement,
    TrackMetadata,
    canonical_name,
    clean_fields,
    merge,
    parse_object,
)
from melodac.errors import AudioError

MAX_SIZE_BYTES = 1 << 28

Row = tuple[int, Pairs, list[str]]
"""Line number, fields including `file_name`, and complaints about single fields."""


class _RowError(AudioError):
    """Error: one row cannot be used, but the others can."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_tables(
    root: Path, names: Sequence[str], known_paths: Set[str]
) -> tuple[dict[str, list[Statement]], list[str]]:
    """Read the statements of tables about each known path, by precedence, with the problems.

    The nearest table takes precedence, as with .editorconfig: a folder that came with its own table
    uses it for its own files. In one folder metadata.csv comes before metadata.jsonl.

    Args:
        root: Folder of music.
        names: Relative paths of its tables, in any order.
        known_paths: Relative paths of the audio files found.
    """
    said: dict[str, list[Statement]] = {}
    problems: list[str] = []
    known = _KnownPaths(known_paths)
    for name in sorted(names, key=lambda name: (-name.count("/"), name)):
        try:
            rows = _read_rows(root / name)
        except AudioError as error:
            problems.append(f"{name}: {error}")
            continue
        for path, fields in _usable_rows(name, rows, known, problems):
            said.setdefault(path, []).append(Statement(name, fields))
    return said, problems


class _KnownPaths:
    """Look-up of a file under its name, or the same name in another Unicode composition.

    macOS stores decomposed accents in file names; tables are usually typed with composed ones.
    """

    def __init__(self, paths: Set[str]) -> None:
        self._paths = paths
        self._composed: dict[str, list[str]] = {}
        for path in paths:
            self._composed.setdefault(unicodedata.normalize("NFC", path), []).append(path)

    def find(self, folder: PurePosixPath, file_name: str) -> str | None:
        path = str(folder / file_name)
        if path in self._paths:
            return path
        alike = self._composed.get(unicodedata.normalize("NFC", path), [])
        return alike[0] if len(alike) == 1 else None


def _usable_rows(
    name: str, rows: Iterator[Row], known: _KnownPaths, problems: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    known_in_folder = partial(known.find, PurePosixPath(name).parent)
    seen: dict[str, int] = {}
    while True:
        try:
            line, pairs, complaints = next(rows)
            path = _find_file(line, pairs, known_in_folder, seen)
        except StopIteration:
            return
        except _RowError as error:
            problems.append(f"{name} line {error.line}: {error}, row not used")
            continue
        seen[path] = line
        fields, more = clean_fields(pairs)
        problems.extend(f"{name} line {line}: {complaint}" for complaint in complaints + more)
        yield path, fields


def _find_file(
    line: int, pairs: Pairs, find: Callable[[str], str | None], seen: Mapping[str, int]
) -> str:
    # the name is used as written: cleaning it would find other files
    file_name = next((text for key, text in pairs if canonical_name(key) == FILE_NAME), "").strip()
    if not file_name:
        raise _RowError(line, f"no {FILE_NAME}")
    if PurePosixPath(file_name).is_absolute() or ".." in PurePosixPath(file_name).parts:
        raise _RowError(line, f"{file_name!r} points outside the folder")
    found = find(file_name)
    if found is None:
        raise _RowError(line, f"{file_name!r} is not an audio file in the folder")
    if found in seen:
        raise _RowError(line, f"{file_name!r} is described in line {seen[found]} already")
    return found


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
    """Iterator that continues after a faulty row, unlike a generator."""


class _CsvRows(_Rows):
    def __init__(self, text: str) -> None:
        self._reader = csv.reader(io.StringIO(text, newline=""))
        try:
            header = next(iter(self._reader), list[str]())
        except csv.Error as error:
            raise AudioError(f"not used: not CSV: {error}") from error
        self._header = [name.strip() for name in header]
        if FILE_NAME not in map(canonical_name, self._header):
            found = ", ".join(self._header)[:100]
            raise AudioError(f"not used: no column {FILE_NAME!r}, its columns are: {found}")
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
        # a short row leaves fields missing
        return self._reader.line_num, list(zip(self._header, cells, strict=False)), []


class _JsonRows(_Rows):
    def __init__(self, text: str) -> None:
        # not splitlines(), which also splits at characters allowed inside JSON strings
        self._lines = iter(enumerate(text.split("\n"), start=1))

    def __next__(self) -> Row:
        line, text = next(self._lines)
        while not text.strip():
            line, text = next(self._lines)
        try:
            return line, *parse_object(text)
        except AudioError as error:
            raise _RowError(line, str(error)) from error


MAX_JSON_BYTES = 1 << 20
MAX_TEXT_BYTES = 1 << 16


def read_side_cars(
    root: Path, side_cars: Iterable[tuple[str, str]]
) -> tuple[dict[str, list[Statement]], list[str]]:
    """Read the statements of side-cars about each audio path, by precedence, with the problems.

    Source:
        Fields of the JSON: audiocraft/data/music_dataset.py, `MusicInfo`.

    Args:
        root: Folder of music.
        side_cars: Path of each side-car and of the audio file it belongs to, in any order.
    """
    said: dict[str, list[Statement]] = {}
    problems: list[str] = []
    for name, audio in sorted(side_cars, key=_rank):
        try:
            fields, complaints = _read(root / name)
        except AudioError as error:
            problems.append(f"{name}: {error}")
            continue
        problems.extend(f"{name}: {complaint}" for complaint in complaints)
        said.setdefault(audio, []).append(Statement(name, fields))
    return said, problems


def _rank(side_car: tuple[str, str]) -> tuple[str, int, str]:
    """Return the sort key of a side-car: JSON first, then the text called a prompt."""
    name, audio = side_car
    if name.lower().endswith(".json"):
        return audio, 0, name
    has_own_stem = PurePosixPath(name).stem == PurePosixPath(audio).stem
    return audio, 2 if has_own_stem else 1, name


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    if path.suffix.lower() == ".json":
        pairs, complaints = parse_object(_read_text(path, MAX_JSON_BYTES))
        fields, more = clean_fields(pairs)
        return fields, complaints + more
    return clean_fields([(DESCRIPTION, _read_text(path, MAX_TEXT_BYTES))])


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise AudioError(f"not used: more than {max_bytes} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise AudioError(f"not used: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AudioError(f"not used: not UTF-8 text (byte {error.start}), save as UTF-8") from error


EMBEDDED = "embedded"


def collect_metadata(
    root: Path,
    *,
    tables: Sequence[str],
    side_cars: Iterable[tuple[str, str]],
    embedded: Mapping[str, EmbeddedTags],
    known_paths: Set[str],
) -> tuple[dict[str, TrackMetadata], list[str]]:
    """Collect the metadata of each audio file, by path, and the problems, a line each; both sorted.

    Args:
        root: Folder of music; all paths are relative to it.
        tables: Every metadata.csv and metadata.jsonl.
        side_cars: Path of each side-car and of the audio file it belongs to.
        embedded: Tags that `read_embedded` found in each audio file.
        known_paths: Audio files found, whether they can be used or not.
    """
    in_tables, table_problems = read_tables(root, tables, known_paths)
    beside, side_car_problems = read_side_cars(root, side_cars)
    inside = {path: [Statement(EMBEDDED, tags.fields)] for path, tags in embedded.items()}
    inside_problems = [
        f"{path}: embedded tags: {tags.problem}" for path, tags in embedded.items() if tags.problem
    ]
    merged = {
        path: merge(chain(*(said.get(path, []) for said in (in_tables, beside, inside))))
        for path in sorted({*in_tables, *beside, *inside})
    }
    return merged, sorted([*table_problems, *side_car_problems, *inside_problems])
