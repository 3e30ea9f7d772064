"""`melodac verify`: read back every byte that carries a manifest and say what is damaged."""

from pathlib import Path

from melodac.errors import CheckpointCorruptError, MelodacError
from melodac.tokens.store import open_store
from melodac.training.checkpoint import open_checkpoint
from pipeline import paths


def verify() -> tuple[list[str], list[str]]:
    """What is whole and what is not, one line each."""
    whole: list[str] = []
    damaged: list[str] = []
    for name, path, check in (
        ("token store", paths.TOKENS, _check_store),
        ("checkpoints", paths.CHECKPOINT, _check_checkpoints),
    ):
        if not path.exists():
            damaged.append(f"{name}: {path} is missing, run `dvc repro` or `dvc checkout`")
            continue
        try:
            whole.append(f"{name}: {path}: {check(path)}")
        except MelodacError as error:
            damaged.append(f"{name}: {error}")
    return whole, damaged


def _check_store(path: Path) -> str:
    store = open_store(path)
    num_frames = sum(store.num_frames(track_id) for track_id in store.track_ids)
    return f"{len(store.track_ids)} tracks, {num_frames} frames"


def _check_checkpoints(path: Path) -> str:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if not folders:
        raise CheckpointCorruptError(f"{path} holds no checkpoint, run `dvc repro train`")
    updates = [open_checkpoint(folder).update for folder in folders]
    return f"update {', '.join(str(update) for update in updates)}"
