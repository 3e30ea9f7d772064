"""Shards written before, found again by what they were made of and proven by their bytes.

A file is named `<recipe>.<sha256>`: a hash of everything that went in, and one of what came out. It
shares its bytes on disk with the store where the file system can (a hard link); nothing ever writes
to a shard in place.
"""

import os
import shutil
from pathlib import Path

from melodac.durable import hash_file


class ShardCache:
    """A folder of shards; one process at a time may use it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._found = {file.name.partition(".")[0]: file for file in sorted(folder.iterdir())}
        self._used: set[str] = set()

    def fetch(self, recipe: str, target: Path) -> bool:
        """Put the shard of a recipe at `target`; False if there is none whose bytes are right."""
        file = self._found.get(recipe)
        if file is None:
            return False
        if hash_file(file) != file.name.partition(".")[2]:
            file.unlink()  # damaged: what is written in its place must not meet it
            return False
        self._used.add(file.name)
        _link(file, target)
        return True

    def keep(self, recipe: str, shard: Path) -> None:
        """Remember a shard that was just written."""
        name = f"{recipe}.{hash_file(shard)}"
        self._used.add(name)
        if not (self._folder / name).exists():
            _link(shard, self._folder / name)

    def drop_unused(self) -> None:
        """Remove every shard that was neither fetched nor kept since this cache was opened."""
        for file in self._folder.iterdir():
            if file.name not in self._used:
                file.unlink()


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no second names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
