"""Scan of a folder of music: every file once, in a fixed order, nothing dangerous opened.

The result depends on names and kinds only, never on listing order or locale. Links out of the
folder, link loops, FIFOs, sockets and hidden files are listed and left alone.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from melodac.errors import AudioError

AUDIO_EXTENSIONS = frozenset({
    "3ga", "aac", "ac3", "aif", "aifc", "aiff", "alac", "amr", "ape", "au", "caf", "dff", "dsf",
    "dts", "eac3", "flac", "m4a", "m4b", "m4p", "m4r", "mka", "mp1", "mp2", "mp3", "mpc", "oga",
    "ogg", "ogx", "opus", "rf64", "snd", "spx", "tak", "tta", "w64", "wav", "wave",
    "wavex", "weba", "wma", "wv",
})  # fmt: skip
"""Extensions that are offered to the decoders, which judge by content."""
METADATA_NAMES = frozenset({"metadata.csv", "metadata.jsonl"})
PROMPT_SUFFIX = "_prompt.txt"
NOT_AUDIO = "not audio"
DOCUMENTATION = "documentation"

Kind = Literal["audio", "metadata", "side-car", "reject", "ignored"]


@dataclass(frozen=True)
class Entry:
    """File, or folder that is not entered."""

    path: str
    """Path relative to the folder, with forward slashes, always valid UTF-8."""
    kind: Kind
    """Kind: `audio` is decoded, `metadata` and `side-car` are read, the others are only listed.

    `metadata` describes files in its own folder and below, `side-car` one file, named in `beside`.
    """
    reason: str = ""
    """Description of the file, for all kinds but audio."""
    beside: str = ""
    """Path of the audio file that a side-car belongs to."""


def scan_folder(root: Path) -> list[Entry]:
    """List every file below `root`, sorted by path.

    Raises:
        AudioError: If `root` is missing or not a folder.
    """
    if not root.exists():
        raise AudioError(f"{root}: no such folder, set ingest.source to a folder of music")
    if not root.is_dir():
        raise AudioError(f"{root}: not a folder, set ingest.source to a folder of music")
    entries = sorted(_walk(root.resolve()), key=lambda entry: entry.path)
    audio_of_stem = _stems(entries)
    return [_find_side_car(entry, audio_of_stem) for entry in entries]


def _walk(root: Path) -> list[Entry]:
    entries: list[Entry] = []
    folders = [""]  # a stack, no recursion: folders nest deeper than Python's limit
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listing:
                children = list(listing)
        except OSError as error:
            entries.append(Entry(folder or ".", "reject", f"folder: {error.strerror}"))
            continue
        for child in children:
            path = f"{folder}/{child.name}" if folder else child.name
            entry = _judge_child(root, path, child)
            if entry is None:
                folders.append(path)
            else:
                entries.append(entry)
    return entries


def _judge_child(root: Path, path: str, child: os.DirEntry[str]) -> Entry | None:
    """Classify a directory entry; None for a folder to enter."""
    if not _is_utf8(path):
        return Entry(_printable(path), "reject", "file name: not UTF-8, rename it")
    if child.is_symlink():
        return _judge_link(root, path)
    if not child.is_dir():
        return _judge(path, child.stat(follow_symlinks=False).st_mode)
    if child.name.startswith("."):
        return Entry(path, "ignored", "hidden folder, not entered")
    if _extension(path) in AUDIO_EXTENSIONS:
        return Entry(path, "ignored", "folder with the name of an audio file, not entered")
    return None


def _judge_link(root: Path, path: str) -> Entry:
    try:
        target = (root / path).resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # a loop is a RuntimeError in Python 3.11
        is_loop = isinstance(error, RuntimeError)
        return Entry(path, "ignored", "link loop" if is_loop else "link to nothing")
    if not target.is_relative_to(root):
        return Entry(path, "ignored", "link out of the folder, not followed")
    if stat.S_ISDIR(mode):
        return Entry(path, "ignored", "link to a folder, not followed")
    return _judge(path, mode)


def _judge(path: str, mode: int) -> Entry:
    name = PurePosixPath(path).name
    special = _special_file(mode)
    if special:
        return Entry(path, "ignored", f"{special}, not a file")
    if name.startswith("._"):
        return Entry(path, "ignored", "macOS resource fork")
    if name.startswith("."):
        return Entry(path, "ignored", "hidden file")
    if name in METADATA_NAMES:
        return Entry(path, "metadata", "metadata")
    extension = _extension(path)
    if extension in AUDIO_EXTENSIONS:
        return Entry(path, "audio")
    return Entry(path, "ignored", _role(name, extension))


def _role(name: str, extension: str) -> str:
    if name.split(".")[0].upper() in {"README", "LICENSE", "LICENCE", "COPYING", "CREDITS"}:
        return DOCUMENTATION
    if extension in {"py", "sh", "bat"}:
        return "program"
    return NOT_AUDIO


def _special_file(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _stems(entries: list[Entry]) -> dict[str, str]:
    """Return audio files by their path without extension, which a side-car shares."""
    return {
        entry.path.rpartition(".")[0]: entry.path
        for entry in reversed(entries)
        if entry.kind == "audio"
    }


def _find_side_car(entry: Entry, audio_of_stem: dict[str, str]) -> Entry:
    """Return the entry, as a side-car if its name says so: song.json, song.txt, song_prompt.txt."""
    if entry.reason not in {NOT_AUDIO, DOCUMENTATION}:
        return entry
    stems = [entry.path.rpartition(".")[0]] if _extension(entry.path) in {"json", "txt"} else []
    if entry.path.lower().endswith(PROMPT_SUFFIX):
        stems.append(entry.path[: -len(PROMPT_SUFFIX)])
    for audio in (audio_of_stem[stem] for stem in stems if stem in audio_of_stem):
        reason = f"tags of {PurePosixPath(audio).name}"
        return Entry(entry.path, "side-car", reason, beside=audio)
    return entry


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix.removeprefix(".").lower()


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
