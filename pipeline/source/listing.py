"""Listings: one small file that stands for a folder of music in `ingest.source`.

DVC opens every name in a folder it depends on: it hangs at a named pipe, and fails at a socket, a
broken link or a name that is not UTF-8. A listing holds the names that a scan found and the hashes
of the files that are read, so DVC hashes one file only and `ingest` deals with odd names. A folder
that changed since is refused, because DVC would not see the change.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import NonNegativeInt, ValidationError

from melodac.audio.scan import Entry, scan_folder
from melodac.config import Section
from melodac.errors import AudioError
from melodac.files import hash_file
from pipeline.logs import progress
from pipeline.records import write_text

READ_KINDS = frozenset({"audio", "metadata", "side-car"})
NAMED = 3
"""Names that an error message lists."""


class ListedFile(Section):
    """Entry of one name of the folder."""

    kind: str
    """Kind of the entry according to the scan."""
    size_bytes: NonNegativeInt = 0
    sha256: str = ""
    """Hash of a file that is read; empty for others."""


class Listing(Section):
    """Contents of a folder when it was scanned."""

    listing_version: int = 1
    folder: str
    """Absolute path."""
    files: dict[str, ListedFile]
    """Files by path relative to the folder."""


def write_listing(folder: Path, output: Path) -> Listing:
    """Scan a folder, hash the files that will be read, and write the listing."""
    entries = scan_folder(folder)
    watched = progress(entries, total=len(entries), unit="file", description="scan")
    files = {entry.path: _describe(folder, entry, with_hash=True) for entry in watched}
    listing = Listing(folder=str(folder.resolve()), files=files)
    write_text(output, listing.model_dump_json(indent=1) + "\n")
    return listing


def find_folder(source: Path) -> Path:
    """Return the music folder of a source: the source itself, or the folder that it lists."""
    return Path(_read(source).folder) if source.is_file() else source


def check_unchanged(source: Path, entries: list[Entry]) -> None:
    """Compare a fresh scan with the listing, if there is one, by names, kinds and sizes.

    Raises:
        AudioError: If the folder changed since it was listed.
    """
    if not source.is_file():
        return
    listing = _read(source)
    folder = Path(listing.folder)
    now = {entry.path: _describe(folder, entry, with_hash=False) for entry in entries}
    then = {path: file.model_copy(update={"sha256": ""}) for path, file in listing.files.items()}
    changed = sorted(path for path in now.keys() | then.keys() if now.get(path) != then.get(path))
    if changed:
        raise AudioError(
            f"{folder}: changed since {source} was made ({_name(changed)}): "
            f"run `melodac scan` again"
        )


def find_unhashable(folder: Path) -> str:
    """Name the entries of a folder at which DVC fails or hangs, for a message; empty if none."""
    found = sorted(os.fsencode(path).decode("utf-8", "backslashreplace") for path in _odd(folder))
    return _name(found) if found else ""


def _odd(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(root, name)  # noqa: PTH118  a name that is not UTF-8 stays as it is
            try:
                path.encode()
                # stat follows links, as DVC does: a broken one raises
                mode = os.stat(path).st_mode  # noqa: PTH116
            except (UnicodeEncodeError, OSError):
                yield path
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                yield path


def _name(found: list[str]) -> str:
    more = len(found) - NAMED
    return ", ".join(found[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _describe(folder: Path, entry: Entry, *, with_hash: bool) -> ListedFile:
    path = folder / entry.path
    if entry.kind not in READ_KINDS:
        return ListedFile(kind=entry.kind)
    try:
        size_bytes = path.stat().st_size
        sha256 = hash_file(path) if with_hash else ""
    except OSError as error:
        # unreadable: listed without a hash, and rejected in ingest's report
        return ListedFile(kind=f"{entry.kind}: {error.strerror}")
    return ListedFile(kind=entry.kind, size_bytes=size_bytes, sha256=sha256)


def _read(source: Path) -> Listing:
    try:
        return Listing.model_validate_json(source.read_bytes())
    except ValidationError as error:
        raise AudioError(
            f"{source}: neither a folder nor a listing of one: set ingest.source to a folder of "
            "music, or to what `melodac scan FOLDER` wrote"
        ) from error
