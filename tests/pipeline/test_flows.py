"""`melodac run`: DVC's own result and exit code, a picture beside it, no orphan behind it."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from itertools import pairwise

import pytest

from melodac.errors import ConfigError, UnreadableAudioError
from pipeline import preflight
from pipeline.child import Ended, follow
from pipeline.dvc_lines import LineSplitter, StageEvent, parse_line
from pipeline.flows import Picture
from pipeline.prefect_api import PrefectServer
from tests.pipeline.fake_prefect import fake_prefect
from tests.pipeline.real_prefect import COMMAND, ROOT, environment, real_prefect

STAGE = """\
import os, sys, time
from pathlib import Path
from pipeline import bridge
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


@pytest.fixture
def params_only(tmp_path, monkeypatch):
    """A folder with our params.yaml and a source folder."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "data" / "sample").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    variables = {"MELODAC_PREFECT": "off"} | variables
    return subprocess.run(
        [*COMMAND, "run", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


# What DVC prints


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("Running stage 'train':", StageEvent("train", "runs")),
        ("Stage 'train' didn't change, skipping", StageEvent("train", "unchanged")),
        (
            "Stage 'a@b' is cached - skipping run, checking out outputs",
            StageEvent("a@b", "restored"),
        ),
        ("> python pipeline/run.py train", None),
        ("we saw: Running stage 'train':", None),
        ("", None),
    ],
)
def test_only_dvc_s_own_lines_are_events(line, event):
    assert parse_line(line) == event


def test_lines_are_whole_and_clean_however_they_arrive():
    text = "\x1b[32mRunning stage 'a':\x1b[0m\r\n 10%|#\r 20%|##\rdone\nna\u00efve\npart".encode()
    expected = ["Running stage 'a':", "done", "na\u00efve"]
    for size in (1, 2, 3, len(text)):
        splitter = LineSplitter()
        chunks = [text[i : i + size] for i in range(0, len(text), size)]
        assert [line for chunk in chunks for line in splitter.feed(chunk)] == expected


def test_a_line_without_end_does_not_fill_the_memory():
    splitter = LineSplitter()
    for _ in range(100):
        assert list(splitter.feed(b"x" * 65_536)) == []
    assert len(next(splitter.feed(b"\n"))) <= 65_536


# Checks before the start


def test_options_are_applied_before_the_check(params_only):
    preflight.check(["-S", "train.seed=7", "--set-param=train.delay=dia", "train"])
    preflight.check(["-Sparams.yaml:train.delay=[0,1,2,3,4,5,6,7,8]", "-S", "other.yaml:a.b=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-S", "train.size=3"], "train.size = 3"),
        (["--set-param=train.updates=-5"], "train.updates = -5"),
        (["-S", "train.nokey=1"], "nokey"),
        (["-S", "+train.extra=1"], "train.extra"),
        (["--queue", "-S", "train.updates=100,-5"], "train.updates = -5"),
        (["-S", "train.seed"], "train.seed"),
        (["-S", "train.seed=1,"], "train.seed"),
    ],
)
def test_wrong_options_are_told_by_key(params_only, arguments, message):
    with pytest.raises(ConfigError) as caught:
        preflight.check(arguments)
    assert message in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_a_missing_source_folder_is_told(params_only):
    with pytest.raises(UnreadableAudioError, match=r"ingest\.source = 'no/such': no such folder"):
        preflight.check(["-S", "ingest.source=no/such"])


def test_wrong_params_and_missing_music_have_their_exit_codes(params_only):
    wrong = melodac_run("-S", "train.size=3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("melodac: params.yaml: train.size = 3")
    missing = melodac_run("-S", "ingest.source=no/such")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1


# The child


def script(code):
    return [sys.executable, "-c", code]


def test_output_is_passed_through_and_read_along(capfdbinary):
    seen = []
    ended = follow(script("print('a'); print('b')"), environment=os.environ, on_output=seen.append)
    assert (ended.code, ended.signals) == (0, [])
    assert b"".join(seen) == b"a\nb\n" == capfdbinary.readouterr().out


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(5)", 5), ("os.abort()", 134)])
def test_exit_code_is_the_child_s(ending, code, capfdbinary):
    command = script(f"import os, sys; {ending}")
    assert follow(command, environment=os.environ, on_output=lambda _: None).code == code


def test_a_daemon_that_holds_the_output_delays_nothing(capfdbinary):
    started_s = time.monotonic()
    code = "import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True)"
    follow(script(code), environment=os.environ, on_output=lambda _: None)
    assert time.monotonic() - started_s < 5.0


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


# The picture


def test_picture_has_a_node_for_each_line_of_dvc():
    parents = {"first": (), "second": ("first",), "third": ("second",)}
    printed = (
        b"Stage 'first' didn't change, skipping\n"
        b"Stage 'second' is cached - skipping run, checking out outputs\n"
        b"Running stage 'third':\n"
    )
    with fake_prefect() as prefect:
        picture = Picture(PrefectServer(prefect.url), str(uuid.uuid4()), parents)
        picture.read(printed)
        picture.close(Ended(1))
    nodes = prefect.told("/task_runs/")
    assert [node["name"] for node in nodes] == ["first (cached)", "second (cached)", "third"]
    for earlier, later in pairwise(nodes):
        assert later["task_inputs"]["wait_for"][0]["id"] == earlier["id"]
    states = [body["state"] for body in prefect.told("/set_state")]
    ends = [(state["name"], state["message"]) for state in states if state["message"]]
    assert ends == [
        ("Cached", "inputs unchanged since dvc.lock"),
        ("Cached", "restored from the DVC run cache"),
        ("Failed", "seen in DVC's output only"),
        ("Failed", "dvc ended with exit code 1"),
    ]


# Real DVC


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


def test_on_a_terminal_the_child_has_one_too():
    code = (
        "import os, sys; from pipeline.child import follow\n"
        "sys.exit(follow([sys.executable, '-c', 'import sys; sys.exit(5 + sys.stdout.isatty())'],"
        " environment=os.environ, on_output=lambda _: None).code)"
    )
    outer = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", outer, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == 6


# A real server


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
