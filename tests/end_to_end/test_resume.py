"""A training stage that is stopped or killed goes on where it was and ends with the same bytes."""

import hashlib
import os
import signal
import subprocess
import time

import pytest

from pipeline import paths
from tests.end_to_end.conftest import environment

pytestmark = pytest.mark.slow
FIRST_CHECKPOINT = "*/checkpoints/00000006/manifest.json"


def checkpoint_hashes(clone):
    folder = clone.folder / paths.CHECKPOINT
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def train_until_first_checkpoint(clone, number):
    stage = subprocess.Popen(
        ["python", "pipeline/run.py", "train"],
        cwd=clone.folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    scratch = clone.folder / ".scratch" / "train"
    deadline_s = time.monotonic() + 300
    while not list(scratch.glob(FIRST_CHECKPOINT)):
        assert stage.poll() is None, stage.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    os.kill(stage.pid, number)
    said = stage.communicate()[1]
    return stage.returncode, said


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_stopped_run_ends_with_the_same_weights(finished, number, code):
    # long enough that the signal, sent after update 6, finds the run at work
    finished.change_params(train={"updates": 40, "checkpoint_every": 6, "validate_every": 20})
    assert finished.run("python", "pipeline/run.py", "train").returncode == 0
    undisturbed = checkpoint_hashes(finished)
    returncode, said = train_until_first_checkpoint(finished, number)
    assert returncode == code, said
    resumed = finished.run("python", "pipeline/run.py", "train")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after update" in resumed.stderr
    assert checkpoint_hashes(finished) == undisturbed
