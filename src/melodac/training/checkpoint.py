"""Checkpoints: one folder per update number, complete and hashed before it gets its name.

    <directory>/00000200/  model.safetensors  ema.safetensors  ...  state.json  config.json
                           manifest.json with the sha256 of every other file

A folder is written under a temporary name, synced and renamed, so a folder with a number is whole.
"Latest" is the highest number whose hashes match, never a pointer and never a time. Tensors are
safetensors, everything else is JSON: reading one executes no code. Weights load into a whole or a
sharded model; generation and evaluation need no other part of training.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]  untyped paths
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from melodac.errors import CheckpointCorruptError, CheckpointMismatchError, OutputError
from melodac.files import hash_file, sync
from melodac.models.language_model import LanguageModel

FORMAT_VERSION = 2
"""Version of the folder, raised whenever an older reader would misread it."""

_MANIFEST = "manifest.json"
_TEMPORARY = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint whose hashes matched when it was opened."""

    folder: Path
    update: int
    config: dict[str, Any]
    """Identity of the run (model, pattern, codec, data); must match before a run is resumed."""
    state: dict[str, Any]
    """State of the run without its tensors."""
    files: frozenset[str]
    """Names of the files that its manifest lists."""

    def entry(self, name: str) -> Any:  # noqa: ANN401  any JSON value
        """Return one entry of the state.

        Raises:
            CheckpointMismatchError: If the checkpoint was written without it.
        """
        if name not in self.state:
            raise CheckpointMismatchError(
                f"the state of {self.folder} was written without {name!r}, which a resumed run "
                "needs: resume another checkpoint"
            )
        return self.state[name]

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read the named tensors of `<name>.safetensors`, on the CPU.

        Raises:
            CheckpointMismatchError: If the checkpoint has no such file.
            CheckpointCorruptError: If the file can no longer be read.
        """
        path = self.folder / f"{name}.safetensors"
        if path.name not in self.files:
            raise CheckpointMismatchError(
                f"{self.folder} was written without {path.name}, which is needed here: resume "
                "another checkpoint"
            )
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointCorruptError(f"{path} cannot be read: {error}") from error


class LatestCheckpoint(NamedTuple):
    """Newest valid checkpoint, with a warning for each newer one that is damaged."""

    checkpoint: Checkpoint | None
    warnings: tuple[str, ...]


def write_checkpoint(
    directory: Path,
    update: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of an update, unless a valid one is already there.

    Args:
        directory: Folder of the checkpoints; made if missing.
        update: Updates done.
        tensors: Named tensors of each file, by file name without suffix.
        state: State of the run, as JSON values.
        config: Identity of the run, as JSON values.

    Raises:
        OutputError: If it cannot be written completely; older checkpoints are untouched.
    """
    folder = directory / f"{update:08d}"
    if folder.exists() and is_valid_checkpoint(folder):
        return folder
    unfinished = directory / f"{_TEMPORARY}{update:08d}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(directory)
        unfinished.mkdir()
        for name, group in tensors.items():
            contiguous = {key: value.detach().contiguous() for key, value in group.items()}
            save_file(contiguous, unfinished / f"{name}.safetensors")
        (unfinished / "state.json").write_bytes(_encode(state))
        (unfinished / "config.json").write_bytes(_encode(config))
        _seal(unfinished, update)
        if folder.exists():
            remove_checkpoint(folder)
        os.rename(unfinished, folder)  # noqa: PTH104  tests count and break this very call
        sync(directory)
    except (OSError, SafetensorError) as error:
        # the rest would only take space on a disk that may be full
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OutputError(
            f"checkpoint {folder} cannot be written: {error}; earlier checkpoints are untouched, "
            "free some space or permit writing and start again to resume"
        ) from error
    return folder


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in a folder after comparing every byte of it with its manifest.

    Raises:
        CheckpointCorruptError: If anything is missing, changed or of another format version.
    """
    manifest = _read_manifest(folder)
    for name, digest in manifest["sha256"].items():
        path = folder / name
        try:
            found = hash_file(path)
        except OSError as error:
            raise CheckpointCorruptError(
                f"{path} is listed in the manifest but unreadable: {error.strerror}"
            ) from error
        if found != digest:
            raise CheckpointCorruptError(
                f"{path} is damaged: its sha256 is {found[:12]}..., "
                f"the manifest says {digest[:12]}..."
            )
    return Checkpoint(
        folder=folder,
        update=manifest["update"],
        config=json.loads((folder / "config.json").read_bytes()),
        state=json.loads((folder / "state.json").read_bytes()),
        files=frozenset(manifest["sha256"]),
    )


def is_valid_checkpoint(folder: Path) -> bool:
    """Check if every byte of the folder matches its manifest."""
    try:
        open_checkpoint(folder)
    except CheckpointCorruptError:
        return False
    return True


def latest_checkpoint(directory: Path) -> LatestCheckpoint:
    """Return the valid checkpoint with the highest update number; none if none was ever written.

    Raises:
        CheckpointCorruptError: If checkpoints exist and none is valid, since starting afresh
            silently would throw a run away.
    """
    warnings: list[str] = []
    for folder in reversed(numbered_checkpoints(directory)):
        try:
            return LatestCheckpoint(open_checkpoint(folder), tuple(warnings))
        except CheckpointCorruptError as error:
            warnings.append(f"checkpoint {folder.name} is skipped: {error}")
    if warnings:
        raise CheckpointCorruptError(
            f"{directory} holds {len(warnings)} checkpoints and none is valid: "
            f"{warnings[0]}; remove the directory to start afresh"
        )
    return LatestCheckpoint(None, ())


def numbered_checkpoints(directory: Path) -> list[Path]:
    """Return the folders named by an update number, valid or not, oldest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (path for path in directory.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name)
    )


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint so that a kill leaves it either whole or without its number."""
    # renamed first: a half-removed folder must not carry a number
    doomed = folder.with_name(f"{_TEMPORARY}removed-{folder.name}")
    folder.rename(doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed)
    else:
        doomed.unlink()


def check_identity(checkpoint: Checkpoint, expected: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run: fields that must match to resume.

    Args:
        checkpoint: Checkpoint to resume.
        expected: Identity of the present run, in the shape that was written.

    Raises:
        CheckpointMismatchError: With every differing key and both its values.
    """
    found = flatten(checkpoint.config)
    wanted = flatten(json.loads(_encode(expected)))
    missing = "(absent)"
    lines = [
        f"{key}: checkpoint {found.get(key, missing)!r}, this run {wanted.get(key, missing)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key, missing) != wanted.get(key, missing)
    ]
    if lines:
        raise CheckpointMismatchError(
            f"checkpoint {checkpoint.folder} belongs to another run; differing keys: "
            f"{'; '.join(lines)}. Resume with the old values or start in another directory"
        )


def _seal(folder: Path, update: int) -> None:
    paths = sorted(folder.iterdir())
    # every other file is on disk before the manifest that vouches for it
    for path in paths:
        sync(path)
    manifest = {
        "format_version": FORMAT_VERSION,
        "update": update,
        "sha256": {path.name: hash_file(path) for path in paths},
    }
    (folder / _MANIFEST).write_bytes(_encode(manifest))
    sync(folder / _MANIFEST)
    sync(folder)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        content = path.read_bytes()
        manifest: Any = json.loads(content)
    except (OSError, ValueError) as error:
        raise CheckpointCorruptError(f"{path} cannot be read: {error}") from error
    # a manifest must equal its own re-encoding, so that no byte of it is unchecked
    if not isinstance(manifest, dict) or _encode(cast("dict[str, Any]", manifest)) != content:
        raise CheckpointCorruptError(f"{path} is damaged: it is not as melodac writes it")
    fields = cast("dict[str, Any]", manifest)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointCorruptError(
            f"{path} has format version {version}, this melodac reads {FORMAT_VERSION}"
        )
    listed = fields.get("sha256", {})
    if folder.name != f"{fields.get('update', -1):08d}" or not {
        "config.json",
        "state.json",
    }.issubset(listed):
        raise CheckpointCorruptError(f"{path} does not describe the folder {folder.name}")
    return fields


def _remove_unfinished(directory: Path) -> None:
    for path in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)


def _encode(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401  any JSON value
    """Return nested objects as one, with keys joined by dots; lists stay whole."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in cast("dict[str, Any]", value).items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def load_weights(model: LanguageModel, checkpoint: Checkpoint, name: str) -> None:
    """Load `<name>.safetensors` into a model, all of its tensors or none.

    A tensor that is missing, left over or of another shape raises `CheckpointMismatchError`.

    Args:
        model: Model of the checkpoint's config.
        checkpoint: Opened checkpoint.
        name: "ema" for the EMA weights, "model" for the raw ones.
    """
    fill(
        model.state_dict(),
        checkpoint.read_tensors(name),
        misfit=f"{checkpoint.folder} does not fit this model",
        remedy="build the model from the checkpoint's config",
    )


@torch.no_grad()
def fill(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], *, misfit: str, remedy: str
) -> None:
    """Copy whole tensors into others of the same names, sharded or not; all of them or none.

    Args:
        wanted: Tensors to fill.
        found: Tensors of a checkpoint.
        misfit: Beginning of the error message: what does not fit.
        remedy: End of the error message: what to do.

    Raises:
        CheckpointMismatchError: If a tensor is missing, left over or of another shape.
    """
    differing = sorted(
        key
        for key in found.keys() | wanted.keys()
        if key not in found or key not in wanted or found[key].shape != wanted[key].shape
    )
    if differing:
        raise CheckpointMismatchError(
            f"{misfit}: {len(differing)} tensors differ, the first is {differing[0]!r}; {remedy}"
        )
    for key, value in wanted.items():
        value.copy_(own_share(found[key], value))


def own_share(found: Tensor, like: Tensor) -> Tensor:
    """Return this process's share of a whole tensor, sharded as `like` is; no communication."""
    if not isinstance(like, DTensor):
        return found
    value = found.to(like.device)
    # src_data_rank=None: each process cuts its share out of its own copy, without communication
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def whole_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor of which this process holds a share; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
