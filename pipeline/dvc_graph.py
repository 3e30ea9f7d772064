"""Which stage of dvc.yaml reads what another writes: for the picture, DVC decides what runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.yaml_reader import read_yaml


def read_upstream(dvc_yaml: Path) -> dict[str, tuple[str, ...]]:
    """For each stage, in the file's order, the stages whose outputs it depends on."""
    stages: Mapping[str, Any] = read_yaml(dvc_yaml).get("stages") or {}
    written = {
        name: set(_paths(stage, "outs", "metrics", "plots")) for name, stage in stages.items()
    }
    return {
        name: tuple(
            other
            for other, outs in written.items()
            if other != name and _touch(_paths(stage, "deps"), outs)
        )
        for name, stage in stages.items()
    }


def _paths(stage: Any, *keys: str) -> Iterable[PurePosixPath]:  # noqa: ANN401  YAML is anything
    if not isinstance(stage, dict):
        return
    for key in keys:
        for item in stage.get(key) or ():
            # `- data/x` or `- data/x: {cache: false}`
            yield PurePosixPath(next(iter(item)) if isinstance(item, dict) else str(item))


def _touch(deps: Iterable[PurePosixPath], outs: Iterable[PurePosixPath]) -> bool:
    outs = set(outs)
    return any(
        dep == out or out in dep.parents or dep in out.parents for dep in deps for out in outs
    )
