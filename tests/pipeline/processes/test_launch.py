"""When a stage is started several times, how its end is told, and that all stop for one."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from melodac.errors import ConfigError, TrainingError
from pipeline import paths
from pipeline.params import load_params
from pipeline.processes import launch
from pipeline.processes.signals import StoppedError, stop_on_signal

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def runtime():
    return load_params(ROOT / paths.PARAMS).runtime.model_copy(update={"processes": 2})


@pytest.fixture(autouse=True)
def _not_under_torchrun(monkeypatch):
    monkeypatch.delenv(launch.STARTED_BY_TORCHRUN, raising=False)


def test_only_training_in_several_processes_is_launched(runtime, monkeypatch):
    assert launch.is_launcher("train", runtime)
    assert not launch.is_launcher("evaluate", runtime)
    assert not launch.is_launcher("train", runtime.model_copy(update={"processes": 1}))
    monkeypatch.setenv(launch.STARTED_BY_TORCHRUN, "run")
    assert not launch.is_launcher("train", runtime)


def test_one_process_is_the_first_and_joins_nothing(runtime):
    with launch.joined("train", runtime) as is_first:
        assert is_first


def test_another_stage_under_torchrun_is_refused(runtime, monkeypatch):
    monkeypatch.setenv(launch.STARTED_BY_TORCHRUN, "run")
    with (
        pytest.raises(ConfigError, match="index is the work of one process"),
        launch.joined("index", runtime),
    ):
        pass


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert launch._own_device(2) == 1
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 CUDA devices"):
        launch._own_device(1)


@pytest.mark.parametrize(("exit_code", "told"), [(1, 1), (2, 2), (143, 143), (-9, 137)])
def test_the_exit_code_is_that_of_the_work(exit_code, told, caplog):
    assert launch._tell_end("train", 1, exit_code) == told
    # who ended by itself has said why; who was killed could not
    assert ("process 1 was killed by SIGKILL" in caplog.text) == (exit_code < 0)


def test_a_lost_connection_is_told_from_a_mistake_of_ours():
    assert launch._is_lost_connection(RuntimeError("[x/gloo/transport/tcp/pair.cc] closed by peer"))
    assert not launch._is_lost_connection(RuntimeError("shapes do not match"))


def test_a_stop_that_another_process_was_asked_for_is_obeyed():
    with stop_on_signal(lambda own: max(own, signal.SIGTERM)) as stop:
        assert stop()
        with pytest.raises(StoppedError, match="SIGTERM, state kept") as stopped:
            stop.raise_if_asked()
    assert (stopped.value.exit_code, stopped.value.is_orderly) == (143, True)


def test_a_first_signal_after_an_agreed_stop_still_only_asks():
    """torchrun passes a signal on to processes that already stop for another one's."""
    with stop_on_signal(lambda own: max(own, signal.SIGTERM)) as stop:
        assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


PROGRAM = """
import logging, sys
sys.path[:0] = [{root!r}, {root!r} + "/src"]
from pathlib import Path
from melodac.errors import MelodacError
from pipeline import logs
from pipeline.processes import launch
from pipeline.params import load_params
logs.set_up_logging()
runtime = load_params(Path({root!r}) / "params.yaml").runtime.model_copy(
    update={{"processes": 2, "device": "cpu"}}
)
if launch.is_launcher("train", runtime):
    sys.exit(launch.run_processes(Path(__file__), "train", runtime))
try:
    with launch.joined("train", runtime):
        from melodac.training.distributed import Ranks
        ranks = Ranks.current()
        logging.info("sum %d", ranks.sum(__import__("torch").tensor(ranks.rank + 1)))
        {then}
except MelodacError as error:
    logging.error("%s: %s", type(error).__name__, error)
    launch.leave(1)
launch.leave(0)
"""


def start(folder, then="pass"):
    program = folder / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), then=then))
    return subprocess.Popen([sys.executable, program], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_runs_on_one_machine_find_ports_of_their_own(tmp_path):
    (tmp_path / "b").mkdir()
    runs = [start(tmp_path), start(tmp_path / "b")]
    for run in runs:
        said = run.communicate(timeout=120)[1]
        assert run.returncode == 0, said
        assert said.count("sum 3") == 1
        assert "Warning" not in said


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_an_error_and_no_traceback(tmp_path):
    run = start(tmp_path, "if ranks.rank == 1: launch.leave(7)\n        ranks.max(0)")
    said = run.communicate(timeout=120)[1]
    assert run.returncode in {7, 1}, said
    assert f"{TrainingError.__name__}: process 0 cannot go on" in said
    assert "Traceback" not in said


def test_what_is_silenced_is_torchrun_alone():
    logging.getLogger("torch.distributed.elastic.one").setLevel(logging.INFO)
    ours = logging.getLogger("pipeline").level
    launch._hush("torch.distributed.elastic")
    assert logging.getLogger("torch.distributed.elastic.one").level == logging.CRITICAL
    assert logging.getLogger("pipeline").level == ours
