"""Resumable state belongs to one experiment and to one process at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from melodac.errors import OutputError
from pipeline.experiment.training_run import (
    hold_run_directory,
    name_run_directory,
    remove_run_directory,
)

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, time
sys.path[:0] = [{root!r}, {root!r} + "/src"]
from pipeline.experiment.training_run import hold_run_directory, name_run_directory
with hold_run_directory(name_run_directory("train", {{"seed": 0}})):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def directory_of(identity):
    directory = name_run_directory("train", identity)
    with hold_run_directory(directory):
        assert directory.is_dir()
    return directory


def test_the_same_experiment_finds_its_state_again():
    assert directory_of({"a": 1, "b": 2}) == directory_of({"b": 2, "a": 1})


def test_another_value_is_another_directory():
    assert directory_of({"learning_rate": 0.1}) != directory_of({"learning_rate": 0.2})


def test_state_stays_until_it_is_removed():
    directory = name_run_directory("train", {})
    with hold_run_directory(directory):
        (directory / "state").write_text("kept")
    assert (directory / "state").exists()
    remove_run_directory(directory)
    assert not directory.exists()


def test_a_second_process_is_told_who_holds_it_and_a_kill_frees_it():
    script = HOLD.format(root=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(OutputError, match=f"in use by process {holder.pid}"),
            hold_run_directory(name_run_directory("train", {"seed": 0})),
        ):
            pass
        holder.kill()
    directory_of({"seed": 0})
