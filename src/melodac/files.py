"""Durable files: bytes forced to disk, and their hashes.

A file is durable once its bytes and then the folder that names it are synced; until then a power
cut may leave an empty file under a final name.
"""

import hashlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Force a file's bytes, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
