"""`melodac run` with real DVC: its result and exit code, and no orphan behind it."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from pipeline.watch.flows import StageEvent, parse_line
from tests.pipeline.fake_prefect import fake_prefect
from tests.pipeline.real_prefect import COMMAND, ROOT, environment, melodac, real_prefect

STAGE = """\
import os, sys, time
from pathlib import Path
from pipeline.watch import bridge
from pipeline.records import Outcome

def work():
    Path("runs.txt").open("a").write(sys.argv[1] + chr(10))
    Path(sys.argv[1]).write_text("made")
    if os.environ.get("FAIL") == sys.argv[1]:
        sys.exit(3)
    time.sleep(float(os.environ.get("WORK_S", "0")))
    return Outcome({"tracks": 1})

bridge.run_stage(sys.argv[1], work)
"""
DVC_YAML = """\
stages:
  first: {cmd: python stage.py first, deps: [stage.py], outs: [first]}
  second: {cmd: python stage.py second, deps: [first], params: [train.seed], outs: [second]}
  third: {cmd: python stage.py third, deps: [second], outs: [third]}
"""


@pytest.fixture(scope="module")
def fresh_toy(tmp_path_factory):
    """A DVC repository of three stages in which nothing ran yet."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data" / "sample").mkdir(parents=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    (folder / ".gitignore").write_text("runs.txt\n.prefect\nserver.log\n/data\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    dvc = [sys.executable, "-m", "dvc"]
    for command in ([*git, "init", "-q"], [*dvc, "init", "-q"], [*git, "add", "-A"]):
        subprocess.run(command, check=True, cwd=folder, env=environment())
    subprocess.run([*git, "commit", "-qm", "toy"], check=True, cwd=folder)
    return folder


@pytest.fixture
def toy(fresh_toy, tmp_path, monkeypatch):
    """A copy of that repository to work in."""
    shutil.copytree(fresh_toy, tmp_path / "toy")
    monkeypatch.chdir(tmp_path / "toy")
    return tmp_path / "toy"


def melodac_run(*arguments, **variables):
    return melodac("run", *arguments, **variables)


@contextmanager
def melodac_run_started(toy, **variables):
    """`melodac run` whose first stage has begun a long work, in a process group of its own."""
    process = subprocess.Popen(
        [*COMMAND, "run"],
        env=environment(**{"MELODAC_PREFECT": "off", "WORK_S": "60"} | variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline_s = time.monotonic() + 60
        while not (toy / "first").exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.wait()


def stage_processes():
    found = subprocess.run(["pgrep", "-f", "stage.py first"], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_orphan(toy, signum):
    with melodac_run_started(toy) as process:
        assert stage_processes()
        process.send_signal(signum)
        assert process.wait(timeout=20) != 0
    assert stage_processes() == []


def test_dvc_s_real_lines_are_recognised(toy):
    def events(done):
        assert done.returncode == 0, done.stderr
        found = [parse_line(line) for line in done.stdout.splitlines()]
        return [event for event in found if event]

    assert events(melodac_run()) == [StageEvent(s, "runs") for s in ("first", "second", "third")]
    (toy / "second").unlink()
    assert events(melodac_run()) == [
        StageEvent("first", "unchanged"),
        StageEvent("second", "restored"),
        StageEvent("third", "unchanged"),
    ]
    assert (toy / "runs.txt").read_text().split() == ["first", "second", "third"]


@pytest.mark.slow
def test_picture_shows_cached_and_run_stages(toy):
    with fake_prefect() as prefect:
        prefect_on = {"MELODAC_PREFECT": "auto", "PREFECT_API_URL": prefect.url}
        assert melodac_run(**prefect_on).returncode == 0
        prefect.calls.clear()
        assert melodac_run("-S", "train.seed=9", **prefect_on).returncode == 0
    names = [run["name"] for run in prefect.told("/flow_runs/")]
    assert names[0] == "dvc exp run -S train.seed=9"
    assert names[1].startswith("second @ ")
    shown = [node["name"] for node in prefect.told("/task_runs/")]
    assert {"first (cached)", "third (cached)", "second"} <= set(shown)
    messages = [body["state"]["message"] for body in prefect.told("/set_state")]
    assert "inputs unchanged since dvc.lock" in messages
    assert "1 stages ran, 2 cached" in messages


@pytest.mark.slow
@pytest.mark.parametrize("mood", ["ok", "error", "silent"])
def test_a_failing_stage_fails_alike_with_any_server(toy, mood):
    plain = melodac_run(FAIL="second")
    with fake_prefect() as prefect:
        prefect.mood = mood
        watched = melodac_run(FAIL="second", MELODAC_PREFECT="auto", PREFECT_API_URL=prefect.url)
    assert plain.returncode == watched.returncode != 0
    assert (toy / "runs.txt").read_text().split() == ["first", "second", "second"]


@pytest.mark.slow
def test_the_graph_of_a_real_server_has_every_stage_and_edge(toy):
    with real_prefect(toy) as prefect:
        prefect_on = {"MELODAC_PREFECT": "auto", "PREFECT_API_URL": prefect.url}
        assert melodac_run(**prefect_on).returncode == 0
        assert melodac_run("-S", "train.seed=9", **prefect_on).returncode == 0
        run = prefect.flow_run("dvc exp run -S")
        assert run["state_name"] == "Completed"
        nodes = dict(prefect.ask(f"/flow_runs/{run['id']}/graph-v2")["nodes"])
        labels = {node_id: node["label"].split(" ")[0] for node_id, node in nodes.items()}
        edges = {
            (labels[parent["id"]], labels[node_id])
            for node_id, node in nodes.items()
            for parent in node["parents"]
        }
        assert edges == {("first", "second"), ("second", "third")}
        wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        states = {t["name"]: t["state_name"] for t in prefect.ask("/task_runs/filter", wanted)}
    expected = {"first (cached)": "Cached", "second": "Completed", "third (cached)": "Cached"}
    assert states == expected


@pytest.mark.slow
def test_a_killed_stage_is_shown_as_crashed(toy):
    with real_prefect(toy) as prefect:
        on = {"MELODAC_PREFECT": "auto", "PREFECT_API_URL": prefect.url}
        with melodac_run_started(toy, **on) as process:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 143
        assert prefect.flow_run("first @")["state_name"] == "Crashed"
        assert prefect.flow_run("dvc repro")["state_name"] == "Crashed"


@pytest.mark.slow
def test_a_server_killed_mid_run_changes_no_result(toy):
    with real_prefect(toy) as prefect:
        on = {"MELODAC_PREFECT": "auto", "PREFECT_API_URL": prefect.url, "WORK_S": "3"}
        with melodac_run_started(toy, **on) as process:
            prefect.kill()
            assert process.wait(timeout=60) == 0
    assert (toy / "runs.txt").read_text().split() == ["first", "second", "third"]
