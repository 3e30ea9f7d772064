"""Normalized tracks kept by content: what was made once is not made again.

One folder for each recipe (all that decides how a track sounds), in it a FLAC file and an entry for
each source file's hash. Files are shared with the stage's output as hard links where the disk
allows, so they are only ever created whole and removed, never written to; an entry counts only if
its own hash and that of the FLAC file hold, however the file was changed meanwhile. A folder in use
is locked; of the others the one used last stays, so that two settings can be compared. Runs in
worker processes too: light imports only.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import soundfile
import soxr

from melodac.audio.level.loudness import Gain
from melodac.audio.level.normalize import (
    NormalizedFile,
    NormalizeJob,
    NormalizeTarget,
    Unusable,
    normalize_file,
)
from melodac.files import hash_file, link_or_copy, plain_errors, whole_file

RECIPE_VERSION = 2
"""To be raised with every change of `melodac.audio` after which a track is not the same bytes."""
LIBRARIES = ("av", "numpy", "pyloudnorm", "scipy", "soundfile", "soxr")
OLD_RECIPES_KEPT = 1

Result = NormalizedFile | Unusable


@dataclass(frozen=True)
class Produced:
    """A track in its place, or why not."""

    result: Result
    how: Literal["made", "reused", "made again"]
    """`made again`: there was an entry, and it was damaged."""


def hash_recipe(target: NormalizeTarget) -> str:
    """Sixteen hex digits that name everything but the source that decides a normalized file."""
    recipe = {
        "version": RECIPE_VERSION,
        "target": asdict(target),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "libsndfile": soundfile.__libsndfile_version__,
        "libsoxr": soxr.__libsoxr_version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def open_cache(root: Path, target: NormalizeTarget) -> Generator[Path]:
    """The folder for a recipe, locked against removal; afterwards old recipes are removed.

    A place that cannot be written is an `OutputError`.
    """
    folder = root / hash_recipe(target)
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # used now
        lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
        _remove_old(root, folder)
    finally:
        os.close(lock)


def produce(
    job: NormalizeJob, *, cache: Path, target: NormalizeTarget, max_duration_s: float
) -> Produced:
    """Bring a job's file to its destination, from the cache or by normalizing it into both.

    Errors are those of `normalize_file`, and an `OutputError` if the cache cannot be written.
    """
    entry = _Entry(cache, job.track_id)
    is_known = entry.record.exists()
    result = entry.read() if is_known else None
    if result is not None:
        if isinstance(result, NormalizedFile):
            with plain_errors(job.destination):
                link_or_copy(entry.audio, job.destination)
        return Produced(result, "reused")
    result = normalize_file(job, target=target, max_duration_s=max_duration_s)
    with plain_errors(entry.audio):
        entry.write(result, job.destination)
    return Produced(result, "made again" if is_known else "made")


class _Entry:
    def __init__(self, cache: Path, track_id: str) -> None:
        self.audio = cache / f"{track_id}.flac"
        self.record = cache / f"{track_id}.json"

    def read(self) -> Result | None:
        """What was made of the track; None if record or audio is not as it was written."""
        try:
            stored = json.loads(self.record.read_bytes())
            result = _from_json(stored["result"])
            is_whole = stored["sha256"] == _hash_json(stored["result"])
            if is_whole and isinstance(result, NormalizedFile):
                is_whole = hash_file(self.audio) == result.sha256
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if is_whole else None

    def write(self, result: Result, audio: Path) -> None:
        """Keep a result; the record goes last and makes it count."""
        for path in (self.record, self.audio):
            path.unlink(missing_ok=True)
        if isinstance(result, NormalizedFile):
            link_or_copy(audio, self.audio)
        plain = _to_json(result)
        # not forced to disk: what a power cut leaves of it is found out by its hash
        with whole_file(self.record, is_shared=True, is_synced=False) as partial:
            partial.write_text(json.dumps({"result": plain, "sha256": _hash_json(plain)}))


def _remove_old(root: Path, used: Path) -> None:
    others = sorted(
        (folder for folder in root.iterdir() if folder.is_dir() and folder != used),
        key=lambda folder: (folder.stat().st_mtime_ns, folder.name),
    )
    for folder in others[: max(0, len(others) - OLD_RECIPES_KEPT)]:
        with contextlib.suppress(FileNotFoundError):  # removed by a run beside this one
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            except BlockingIOError:  # in use
                continue
            finally:
                os.close(lock)


def _to_json(result: Result) -> dict[str, Any]:
    return asdict(result)


def _from_json(plain: dict[str, Any]) -> Result:
    if "reason" in plain:
        return Unusable(**plain)
    return NormalizedFile(**{**plain, "gain": Gain(**plain["gain"])})


def _hash_json(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
