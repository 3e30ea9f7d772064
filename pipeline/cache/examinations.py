"""Examinations kept by content: a file that was examined once is only hashed the next time.

One folder for each recipe (all but the file that decides the answer: limits, libraries, our code),
in it an entry for each file's hash. An entry that is damaged or not ours is made again. Nothing
that depends on the moment is kept: no crash, no timeout, no file that changed meanwhile. The folder
may be deleted at any time. Runs in worker processes: light imports only.
"""

import base64
import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import soundfile
import soxr

from melodac import audio
from melodac.audio.examine import DurationLimits, Examination, Rejection, examine_file
from melodac.audio.metadata.embedded import EmbeddedTags
from melodac.files import hash_file, plain_errors, whole_file

log = logging.getLogger(__name__)

LIBRARIES = ("av", "mutagen", "numpy", "pyloudnorm", "scipy", "soundfile", "soxr")
OLD_RECIPES_KEPT = 1
CHANGED = Rejection("changed: written to while it was read, run again")


@dataclass(frozen=True)
class Examined:
    """What a file is, and whether that was known before."""

    result: Examination | Rejection
    is_reused: bool = False


@dataclass(frozen=True)
class ExaminationCache:
    """Where the answers of one recipe are kept."""

    folder: Path
    limits: DurationLimits

    @classmethod
    def of(cls, root: Path, limits: DurationLimits) -> "ExaminationCache":
        """The cache below `root` for these limits and the code and libraries of this run."""
        return cls(root / _hash_recipe(limits), limits)

    def entry(self, sha256: str) -> Path:
        """Where the answer on a file with this hash is kept."""
        return self.folder / sha256[:2] / f"{sha256}.json"

    def remove_old(self) -> None:
        """Remove answers to other recipes but the one used last; whoever uses them asks anew."""
        others = [path for path in self.folder.parent.glob("*") if path != self.folder]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[OLD_RECIPES_KEPT:]:
            try:
                shutil.rmtree(path)
            except OSError as error:
                log.warning("%s: old examinations stay: %s", path, error.strerror)


def examine(path: Path, cache: ExaminationCache) -> Examined:
    """What a file is: from the cache, or by decoding it.

    A cache that cannot be written is an `OutputError`.
    """
    try:
        before = _state(path)
        sha256 = hash_file(path)
        known = _read(cache.entry(sha256), sha256)
        if known is not None:
            return Examined(known, is_reused=True)
        result = examine_file(path, cache.limits, sha256)
        if _state(path) != before:
            return Examined(CHANGED)
    except OSError as error:
        return Examined(Rejection(f"cannot be opened: {error.strerror}"))
    _write(cache.entry(sha256), sha256, result)
    return Examined(result)


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _hash_recipe(limits: DurationLimits) -> str:
    sources = Path(audio.__path__[0])
    code = {path.relative_to(sources).as_posix(): path for path in sources.rglob("*.py")}
    recipe = {
        "limits": asdict(limits),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "libsndfile": soundfile.__libsndfile_version__,
        "libsoxr": soxr.__libsoxr_version__,
        "code": {name: hash_file(path) for name, path in code.items()},
        "cache": hash_file(Path(__file__)),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _read(entry: Path, sha256: str) -> Examination | Rejection | None:
    """The answer in an entry; None if there is none or it is not as it was written."""
    try:
        seal, _, body = entry.read_bytes().partition(b"\n")
    except OSError:  # none, or none that can be read: writing it anew will tell
        return None
    if seal != _seal(body):
        return None
    answer = json.loads(body)
    if answer.pop("of") != sha256:
        return None
    return _unpack(answer)


def _write(entry: Path, sha256: str, result: Examination | Rejection) -> None:
    body = json.dumps({"of": sha256, **_pack(result)}, sort_keys=True, allow_nan=False).encode()
    with plain_errors(entry), whole_file(entry, is_shared=True) as partial:
        partial.write_bytes(_seal(body) + b"\n" + body)


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _pack(result: Examination | Rejection) -> dict[str, Any]:
    if isinstance(result, Rejection):
        return {"reason": result.reason}
    fingerprint = base64.b64encode(result.fingerprint).decode()
    return {**asdict(result), "fingerprint": fingerprint}


def _unpack(answer: dict[str, Any]) -> Examination | Rejection:
    if "reason" in answer:
        return Rejection(answer["reason"])
    embedded = EmbeddedTags(**answer.pop("embedded"))
    fingerprint = base64.b64decode(answer.pop("fingerprint"))
    return Examination(**answer, fingerprint=fingerprint, embedded=embedded)
