"""The train stage in two processes: the same result, one voice, and no end leaves anything behind."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline import paths
from tests.end_to_end.conftest import environment, make_clone
from tests.end_to_end.test_resume import FIRST_CHECKPOINT, checkpoint_hashes

pytestmark = pytest.mark.slow
STAGE = ("python", "pipeline/run.py", "train")
NATS = 1e-4
LONGEST_END_S = 60


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A clone whose train stage ran in two processes, started by DVC like any other stage."""
    clone = make_clone(tmp_path_factory.mktemp("torchrun") / "clone")
    clone.change_params(
        train={"micro_batch": 1}, runtime={"device": "cpu", "processes": 2, "sharding": "ddp"}
    )
    clone.first = clone.run("dvc", "repro", "train")
    return clone


def read_metrics(clone):
    return json.loads((clone.folder / paths.metrics_of("train")).read_text())


def test_dvc_runs_the_stage_in_two_processes_with_one_voice(ready):
    said = ready.first.stdout + ready.first.stderr
    assert ready.first.returncode == 0, said
    assert "train: 2 processes, ddp" in said
    assert said.count("train: start, code") == said.count("train: done in") == 1
    assert "process 1" not in said
    assert "Traceback" not in said
    runs = list((ready.folder / ".scratch" / "wandb").glob("wandb/offline-run-*"))
    assert len(runs) == 1
    lines = (ready.folder / paths.TRAIN_LOG).read_text().splitlines()
    updates = [line["update"] for line in map(json.loads, lines) if line["kind"] == "train"]
    assert updates == list(range(1, 13))


@pytest.mark.parametrize("runtime", [{"processes": 1}, {"processes": 2, "sharding": "fsdp"}])
def test_the_result_is_that_of_any_number_of_processes(ready, runtime):
    expected = read_metrics(ready)
    ready.change_params(runtime=runtime)
    again = ready.run(*STAGE)
    assert again.returncode == 0, again.stderr
    found = read_metrics(ready)
    assert found.keys() == expected.keys()
    for name in expected.keys() - {"frames_per_s"}:
        assert found[name] == pytest.approx(expected[name], abs=NATS), name


def test_a_torchrun_of_the_users_own_is_joined(ready):
    ready.change_params(runtime={"processes": 1, "sharding": "ddp"})
    torchrun = ("torchrun", "--standalone", "--nproc-per-node=2", *STAGE[1:])
    done = ready.run(*torchrun)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("train: done in") == 1


def test_other_stages_are_the_work_of_one_process(ready):
    done = ready.run("torchrun", "--standalone", "--nproc-per-node=2", STAGE[1], "index")
    assert done.returncode != 0
    assert "index is the work of one process" in done.stderr


def train_until_first_checkpoint(clone, choose, number):
    """Signal one process of a run at work; its exit code, what was said, and who took part."""
    stage = subprocess.Popen(
        STAGE, cwd=clone.folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    scratch = clone.folder / ".scratch" / "train"
    deadline_s = time.monotonic() + 300
    while not list(scratch.glob(FIRST_CHECKPOINT)):
        assert stage.poll() is None, stage.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    children = Path(f"/proc/{stage.pid}/task/{stage.pid}/children").read_text().split()
    processes = [stage.pid, *map(int, children)]
    assert len(processes) == 3
    os.kill(processes[choose], number)
    said = stage.communicate(timeout=LONGEST_END_S)[1]
    return stage.returncode, said, processes


@pytest.mark.parametrize(
    ("choose", "number", "code"),
    [
        (0, signal.SIGTERM, 143),  # the launcher
        (0, signal.SIGINT, 130),
        (2, signal.SIGTERM, 143),  # process 1 alone
        (0, signal.SIGKILL, -9),
        (2, signal.SIGKILL, 137),
        (1, signal.SIGKILL, 137),  # the one that writes
    ],
)
def test_a_run_that_is_stopped_or_killed_ends_whole_and_goes_on(ready, choose, number, code):
    ready.change_params(
        train={"updates": 40, "checkpoint_every": 6, "validate_every": 20},
        runtime={"processes": 2, "sharding": "ddp"},
    )
    undisturbed = whole_run(ready)
    returncode, said, processes = train_until_first_checkpoint(ready, choose, number)
    assert returncode == code, said
    assert "Traceback" not in said
    wait_for_the_end_of(processes)
    resumed = ready.run(*STAGE)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after update" in resumed.stderr
    assert checkpoint_hashes(ready) == undisturbed


def whole_run(clone):
    """Checkpoint of the same run that nobody disturbed, run once."""
    if not hasattr(clone, "undisturbed"):
        assert clone.run(*STAGE).returncode == 0
        clone.undisturbed = checkpoint_hashes(clone)
    return clone.undisturbed


def wait_for_the_end_of(processes):
    deadline_s = time.monotonic() + LONGEST_END_S
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline_s, "a process was left behind"
        time.sleep(0.1)
