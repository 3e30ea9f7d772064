"""Which checkpoints stay on disk, and which one a run goes back to.

Two stay whatever the limits say, for a damaged one needs a forerunner, and so does the newest
healthy one: written when the last update had been accepted, the only kind worth going back to.
"""

import json
from pathlib import Path
from typing import Any

from melodac.errors import CheckpointCorruptError, DivergenceError, OutputError
from melodac.training.checkpoint import (
    Checkpoint,
    numbered_checkpoints,
    open_checkpoint,
    remove_checkpoint,
)

ALWAYS_KEPT = 2
"""Newest checkpoints that no limit removes."""


def prune_checkpoints(directory: Path, *, keep: int, keep_mb: int = 0) -> None:
    """Remove old checkpoints, oldest first, until both limits hold.

    Args:
        directory: Folder of the checkpoints.
        keep: Most checkpoints, the newest healthy one not counted if it is older.
        keep_mb: Most megabytes (1e6 bytes) that those older than the newest two may fill; 0 sets
            no limit.

    Raises:
        OutputError: If an old checkpoint cannot be removed.
    """
    newest_first = list(reversed(numbered_checkpoints(directory)))
    healthy = next((folder for folder in newest_first if is_healthy(folder)), None)
    size_bytes = 0
    try:
        for position, folder in enumerate(newest_first):
            if position < ALWAYS_KEPT:
                continue
            size_bytes += sum(path.stat().st_size for path in folder.glob("*"))
            is_within = position < keep and (not keep_mb or size_bytes <= keep_mb * 1_000_000)
            if not is_within and folder != healthy:
                remove_checkpoint(folder)
    except OSError as error:
        raise OutputError(f"old checkpoints in {directory} cannot be removed: {error}") from error


def choose_rollback(directory: Path, *, below: int | None = None) -> Checkpoint:
    """The checkpoint to go back to: the newest that is valid and healthy.

    Args:
        directory: Folder of the checkpoints.
        below: Take an older one than this update, if there is one: it was gone back to already and
            did not help.

    Raises:
        DivergenceError: If none is both valid and healthy.
    """
    healthy = [folder for folder in numbered_checkpoints(directory) if is_healthy(folder)]
    older = [folder for folder in healthy if below is None or int(folder.name) < below]
    for folder in reversed(older or healthy[:1]):
        try:
            return open_checkpoint(folder)
        except CheckpointCorruptError:
            continue
    raise DivergenceError(
        f"{directory} holds no checkpoint that is valid and was written in good health, so the run "
        "cannot go back: lower train.learning_rate and start afresh"
    )


def is_healthy(folder: Path) -> bool:
    """Whether a checkpoint says that the last update before it was accepted; damaged ones do not.

    Only that one entry is read: whether its bytes are the ones that were written is for
    `open_checkpoint` to say.
    """
    try:
        state: Any = json.loads((folder / "state.json").read_bytes())
        return state["stability"]["is_healthy"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False
