"""Reader of dvc.yaml, the only place where stages, their order and their inputs are written.

The runner, the flows and the tests read the graph from here, so that it is never written twice. The
checkout is the closest folder with a dvc.yaml, so that `melodac` works from any folder inside.
"""

from pathlib import Path
from typing import Any

from melodac.errors import ConfigError
from pipeline.params import read_yaml
from pipeline.paths import PARAMS, resolve_source

DVC_FILE = Path("dvc.yaml")
SOURCE = "${ingest.source}"
"""Spelling of the user's source folder in dvc.yaml."""


def stage_inputs(stage: str, source: str, dvc_file: Path = DVC_FILE) -> list[Path]:
    """List the data a stage reads; `source` is the user's folder."""
    deps = read_yaml(dvc_file)["stages"][stage].get("deps", [])
    folder = str(resolve_source(source))
    data = [dep for dep in deps if dep == SOURCE or dep.startswith("data/")]
    return [Path(folder if dep == SOURCE else dep) for dep in data]


def stage_parents(dvc_file: Path = DVC_FILE) -> dict[str, tuple[str, ...]]:
    """List the upstream stages of each stage, whose outputs it reads: the edges of the graph."""
    stages: dict[str, Any] = read_yaml(dvc_file)["stages"]
    writers = {out: name for name, stage in stages.items() for out in _paths(stage, "outs")}
    return {
        name: tuple(
            dict.fromkeys(
                writer
                for dep in _paths(stage, "deps")
                for out, writer in writers.items()
                if Path(dep) == Path(out) or Path(out) in Path(dep).parents
            )
        )
        for name, stage in stages.items()
    }


def _paths(stage: dict[str, Any], key: str) -> list[str]:
    entries = stage.get(key, [])
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def find_checkout(start: Path) -> Path:
    """Return the closest folder, from `start` upwards, with a dvc.yaml and a params.yaml.

    Raises:
        ConfigError: If there is none.
    """
    for folder in (start, *start.parents):
        if (folder / DVC_FILE).is_file() and (folder / PARAMS).is_file():
            return folder
    raise ConfigError(
        f"{start}: no {DVC_FILE} with a {PARAMS} here or in any folder above, "
        "cd into a checkout of melodac"
    )
