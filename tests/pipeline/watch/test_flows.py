"""The picture of one DVC command: lines read along, the child passed through."""

import os
import subprocess
import sys
import time
import uuid
from itertools import pairwise

import pytest

from pipeline.watch import flows
from pipeline.watch.flows import Ended, LineSplitter, Picture, StageEvent, follow, parse_line
from pipeline.watch.prefect_api import PrefectServer
from tests.pipeline.fake_prefect import fake_prefect
from tests.pipeline.real_prefect import environment


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


@pytest.mark.parametrize("option", ["-Strain.delay=dia", "-nfirst", "--name=first", "--queue"])
def test_an_option_of_an_experiment_is_known_however_it_is_spelt(option):
    assert flows._is_experiment(["train", option])
    assert not flows._is_experiment(["train", "--force"])


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


def test_on_a_terminal_the_child_has_one_too():
    code = (
        "import os, sys; from pipeline.watch.flows import follow\n"
        "sys.exit(follow([sys.executable, '-c', 'import sys; sys.exit(5 + sys.stdout.isatty())'],"
        " environment=os.environ, on_output=lambda _: None).code)"
    )
    outer = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", outer, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, timeout=30)
    assert done.returncode == 6


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
