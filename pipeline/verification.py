"""`melodac verify`: read back every byte that carries a hash and say what is damaged."""

from collections.abc import Callable
from pathlib import Path

from melodac.errors import CheckpointCorruptError, MelodacError
from melodac.files import hash_file
from melodac.tokens.store.manifest import inspect_store
from melodac.tokens.store.reader import open_store
from melodac.training.checkpoint import open_checkpoint
from pipeline import paths
from pipeline.records import read_normalized

Found = tuple[str, list[str]]
"""What was checked, in words, and each damage."""


def verify() -> tuple[list[str], list[str]]:
    """What is whole and what is not, one line each.

    Normalised audio is only checked where it is: the stages after `encode` do without.
    """
    whole: list[str] = []
    damaged: list[str] = []
    checks: list[tuple[str, Path, Callable[[Path], Found]]] = [
        ("token store", paths.TOKENS, _check_store),
        ("checkpoints", paths.CHECKPOINT, _check_checkpoints),
    ]
    if paths.NORMALIZED_TABLE.exists():
        checks.insert(0, ("normalised audio", paths.NORMALIZED_AUDIO, _check_audio))
    for name, path, check in checks:
        if not path.exists():
            damaged.append(f"{name}: {path} is missing, run `dvc repro` or `dvc checkout`")
            continue
        try:
            words, problems = check(path)
        except MelodacError as error:
            words, problems = "", [str(error)]
        damaged += [f"{name}: {problem}" for problem in problems]
        if not problems:
            whole.append(f"{name}: {path}: {words}")
    return whole, damaged


def _check_audio(path: Path) -> Found:
    rows = read_normalized(paths.NORMALIZED_TABLE)
    problems: list[str] = []
    for row in rows:
        file = path / f"{row.id}.flac"
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif hash_file(file) != row.sha256:
            problems.append(f"{file} has other bytes than were written")
    return f"{len(rows)} tracks", problems


def _check_store(path: Path) -> Found:
    files = inspect_store(path)
    if files.damage:
        return "", [f"{path}/{line}; run `melodac repair`" for line in files.describe()]
    num_frames = 0
    for track in open_store(path).tracks():  # decodes all, and refuses what is no code
        num_frames += track.codes.shape[1]
    table = files.table
    return f"{len(table.ids)} tracks, {num_frames} frames, {table.num_shards()} shards", []


def _check_checkpoints(path: Path) -> Found:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if not folders:
        raise CheckpointCorruptError(f"{path} holds no checkpoint, run `dvc repro train`")
    updates = [open_checkpoint(folder).update for folder in folders]
    return f"update {', '.join(str(update) for update in updates)}", []
