"""A clone of the repository with the smallest params, run once for every test here."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]

SMALLEST = {
    "ingest": {"source": "small", "validation_frac": 0.2, "test_frac": 0.2},
    "index": {"window_frames": 64, "min_track_frames": 32},
    "overfit": {"windows": 1, "window_frames": 32, "updates": 200},
    "train": {
        "size": "nano", "context": [], "updates": 12, "warmup_updates": 8, "windows_per_update": 2,
        "micro_batch": 2, "validate_every": 6, "checkpoint_every": 6,
    },
    "evaluate": {
        "windows_per_batch": 4, "bootstrap_samples": 100, "clips": 2, "clip_s": 1.5, "prefix_s": 0.5,
    },
    "demos": {
        "tracks": 1, "duration_s": 2.0, "prefix_s": 1.0, "temperatures": [0.0, 1.0], "seeds": [0],
    },
    "runtime": {"workers": 2, "wandb": "offline"},
}  # fmt: skip
NUM_GROUPS = 6


def environment(**more):
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "DVC_NO_ANALYTICS": "1",
        "MELODAC_PREFECT": "off",
        **more,
    }


class Clone:
    """A checkout in which commands run as a user would run them."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, *command, **more):
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment(**more),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def change_params(self, **sections):
        path = self.folder / "params.yaml"
        yaml = YAML()
        params = yaml.load(path.read_text())
        for section, values in sections.items():
            params[section].update(values)
        with path.open("w") as file:
            yaml.dump(params, file)


def make_clone(folder):
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(folder)], check=True)
    clone = Clone(folder)
    for key, value in {"user.name": "test", "user.email": "test@example.org"}.items():
        clone.run("git", "config", key, value)
    copy_some_groups(folder / "data" / "sample", folder / "small")
    clone.change_params(**SMALLEST)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-q", "-m", "smallest params")
    return clone


def copy_some_groups(sample, target):
    with (sample / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups = sorted({row["group"] for row in rows})[:NUM_GROUPS]
    chosen = [row for row in rows if row["group"] in groups]
    target.mkdir()
    for row in chosen:
        (target / row["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample / row["file_name"], target / row["file_name"])
    with (target / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)


@pytest.fixture
def clone(tmp_path):
    """A fresh clone, nothing run in it."""
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A clone in which the whole pipeline ran."""
    clone = make_clone(tmp_path_factory.mktemp("finished") / "clone")
    clone.first = clone.run("dvc", "repro")
    return clone
