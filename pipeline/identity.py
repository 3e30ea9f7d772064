"""Provenance of a run: version of the code, fingerprints of code and inputs.

Every stage logs its code version and input fingerprint first; a checkpoint carries the fingerprint
of the code that trained it.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

WHOLE_CONTENT_LIMIT_BYTES = 1_048_576
"""Largest file whose content goes into the fingerprint of inputs."""


def code_version() -> str:
    """Return package version and git commit, with `+dirty` if tracked files differ from it."""
    release = version("melodac")
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        dirty = "+dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.CalledProcessError):
        return f"{release} (no git)"
    return f"{release} {commit}{dirty}"


def fingerprint_code(packages: Iterable[str]) -> str:
    """Hash the source text of library packages, e.g. `training`, to twelve hex digits."""
    root = Path(__file__).resolve().parents[1] / "src" / "melodac"
    digest = hashlib.sha256()
    for package in sorted(packages):
        for source in sorted((root / package).rglob("*.py")):
            digest.update(source.relative_to(root).as_posix().encode() + b"\0")
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def fingerprint_inputs(paths: Iterable[Path]) -> str:
    """Hash names, sizes and the content of small files to twelve hex digits.

    Large files are told apart by size only: hashing a terabyte of music for one log line would be
    absurd, and data that must be exact (store, checkpoint, weights) has hashes of its own.
    """
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if not file.is_file():
                continue
            size_bytes = file.stat().st_size
            # as bytes: file names need not be UTF-8
            name = os.fsencode(file.relative_to(path) if path.is_dir() else file.name)
            digest.update(name + f"\0{size_bytes}\0".encode())
            if size_bytes <= WHOLE_CONTENT_LIMIT_BYTES and os.access(file, os.R_OK):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
