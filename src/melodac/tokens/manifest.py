"""Folders that prove their bytes: a manifest of hashes, and a write that is whole or not there.

A folder is filled under a temporary name beside its final one, hashed, forced to disk and renamed.
Used by the token store; knows nothing of codes.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, NonNegativeInt, ValidationError

from melodac.config import Section
from melodac.durable import hash_file, sync
from melodac.errors import OutputError, StoreCorruptError, StoreVersionError

MANIFEST = "manifest.json"
"""Name of the file that lists all others."""


class FileEntry(Section):
    """What a file must be."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: NonNegativeInt


class Manifest(Section):
    """Every file of a folder except the manifest itself."""

    format_version: int
    files: dict[str, FileEntry]
    """Path relative to the folder, with forward slashes, to what the file must be."""


@contextmanager
def whole_folder(path: Path, format_version: int) -> Generator[Path, None, None]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    An older folder of this kind at `path` is replaced; a folder that an interrupted run left under
    the temporary name is removed first. Replacing takes two renames, since there is no portable way
    to exchange two folders: who looks between them, for some microseconds, finds no folder, and a
    run killed there leaves the old one under `.<name>.replaced`, from which the next one restores
    it. DVC removes a stage's outputs first, so that the stage itself needs one rename only.

    Raises:
        OutputError: If something else is already at `path`.
    """
    if not _is_replaceable(path):
        raise OutputError(
            f"{path} exists and is not a folder written by melodac (it has no {MANIFEST}): "
            "remove it or choose another path"
        )
    partial = path.with_name(f".{path.name}.partial")
    replaced = path.with_name(f".{path.name}.replaced")
    if replaced.exists() and not path.exists():
        replaced.rename(path)  # killed between two renames: the old folder gets its name back
    _remove(partial, replaced)
    partial.mkdir(parents=True)
    try:
        yield partial
        _write_manifest(partial, format_version)
        _sync(partial)
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        sync(path.parent)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)  # the new folder did not get its name: the old one keeps it
        _remove(partial, replaced)


def read_manifest(folder: Path, format_version: int) -> tuple[Manifest, str]:
    """The manifest of a folder, and the sha256 of its bytes, which identifies the whole folder.

    Raises:
        StoreCorruptError: If there is none, or it cannot be understood.
        StoreVersionError: If it is of another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise StoreCorruptError(
            f"no complete store at {folder}: {MANIFEST} is missing; write the store again"
        )
    content = path.read_bytes()
    found = _read_version(path, content)
    if found != format_version:
        raise StoreVersionError(
            f"{path} has format version {found!r}, this code reads {format_version}: "
            "run the encode stage again, or use the code that wrote it"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise StoreCorruptError(f"{path} is damaged ({error}): write the store again") from error
    return manifest, hashlib.sha256(content).hexdigest()


def find_damage(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Every file that is not what the manifest says, and how it differs.

    Missing and additional files count as damage, and so do links: what they point to can change.
    """
    found = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if not stat.S_ISDIR(file.lstat().st_mode)
    }
    found.pop(MANIFEST, None)
    damage = {name: "is missing" for name in manifest.files if name not in found}
    for name, file in found.items():
        problem = _compare(file, manifest.files.get(name))
        if problem:
            damage[name] = problem
    return damage


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """Write a value as JSON, the same bytes for the same value."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, indent=indent, separators=separators, sort_keys=True)
    path.write_text(text + "\n", encoding="ascii", newline="\n")


def _compare(file: Path, entry: FileEntry | None) -> str:
    status = file.lstat()
    if entry is None:
        return "is not in the manifest"
    if not stat.S_ISREG(status.st_mode):
        return "is a link or no regular file (for DVC, set cache.type to reflink, hardlink or copy)"
    if status.st_size != entry.size_bytes:
        return f"has {status.st_size} bytes instead of {entry.size_bytes}"
    return "" if hash_file(file) == entry.sha256 else "has other bytes than were written"


def _read_version(path: Path, content: bytes) -> object:
    try:
        value: object = json.loads(content)
    except ValueError as error:
        raise StoreCorruptError(f"{path} is not JSON: write the store again") from error
    if not isinstance(value, dict):
        raise StoreCorruptError(f"{path} is not a manifest: write the store again")
    return cast("dict[str, Any]", value).get("format_version")


def _is_replaceable(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return (path / MANIFEST).is_file() or not any(path.iterdir())
    return not path.exists()


def _remove(*folders: Path) -> None:
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)


def _write_manifest(folder: Path, format_version: int) -> None:
    entries = {
        file.relative_to(folder).as_posix(): {
            "sha256": hash_file(file),
            "size_bytes": file.stat().st_size,
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_json(folder / MANIFEST, {"format_version": format_version, "files": entries}, indent=1)


def _sync(folder: Path) -> None:
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)
