"""`run_together`: trainers of the fixtures, run by several processes."""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from melodac.training.checkpoint import latest_checkpoint
from tests.training.ranks_worker import Heard, Task

SOURCE = Path(__file__).resolve().parents[2] / "src"
LIMIT_S = 240


def task(trainer, world_size=1, sharding="ddp", **more):
    """What a trainer of the fixtures would do, as the work of some processes."""
    parts = (
        trainer.state.model,
        trainer.pattern,
        trainer.data,
        trainer.config,
        trainer.directory,
        trainer.identity,
    )
    return Task(parts, world_size, sharding, **more)


def run_together(*tasks):
    """Run each task, one after another; what each of its processes heard, None if it was killed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks"
        path.write_bytes(pickle.dumps([vars(one) for one in tasks]))
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("ranks_worker.py"), path],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        return [
            [_heard(path.with_name(f"tasks.{number}.{rank}")) for rank in range(one.world_size)]
            for number, one in enumerate(tasks)
        ]


def _heard(path) -> Heard | None:
    return Heard(**pickle.loads(path.read_bytes())) if path.exists() else None


def newest(directory, kind="checkpoints"):
    """Every tensor of the newest checkpoint, by file and name."""
    checkpoint = latest_checkpoint(directory / kind).checkpoint
    return {
        f"{path.stem}/{name}": value
        for path in sorted(checkpoint.folder.glob("*.safetensors"))
        for name, value in checkpoint.read_tensors(path.stem).items()
    }


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def are_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
