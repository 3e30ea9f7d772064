"""The bridge: the work runs once and decides everything, whatever Prefect does."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melodac.errors import AudioError, ConfigError
from pipeline import logs
from pipeline.processes.signals import StoppedError
from pipeline.records import Outcome
from pipeline.watch import bridge
from pipeline.watch.prefect_api import task_run_id_of
from tests.pipeline.fake_prefect import fake_prefect, refused_url, silent_listener

ROOT = Path(__file__).resolve().parents[3]
OUTCOME = Outcome({"tracks in": 3}, {"too short": 1}, {"loss": 0.5, "per": {"train": 2}})


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    """No server but the test's own, no proxy, no leftover listener."""
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "DVC_EXP_NAME", bridge.MODE, bridge.PARENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(logs, "_listeners", [])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prefect(monkeypatch):
    with fake_prefect() as server:
        monkeypatch.setenv("PREFECT_API_URL", server.url)
        yield server


def run_counted(work=lambda: OUTCOME):
    """The outcome, how often the work ran, and the seconds it all took."""
    calls = []

    def counted():
        calls.append(1)
        return work()

    started_s = time.monotonic()
    outcome = bridge.run_stage("train", counted)
    return outcome, len(calls), time.monotonic() - started_s


def test_refused_server_changes_nothing(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", refused_url())
    outcome, num_calls, took_s = run_counted()
    assert (outcome, num_calls) == (OUTCOME, 1)
    assert took_s < 1.0


def test_silent_server_costs_about_its_time_limit(monkeypatch):
    with silent_listener() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        outcome, num_calls, took_s = run_counted()
    assert (outcome, num_calls) == (OUTCOME, 1)
    assert took_s < 1.5  # 0.75 s and a busy machine


@pytest.mark.parametrize("health", [(500, b"true"), (200, b"<html>"), (404, b""), (200, b"false")])
def test_what_is_no_healthy_prefect_is_told_nothing(prefect, health):
    prefect.health = health
    assert run_counted()[:2] == (OUTCOME, 1)
    assert prefect.calls == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "nonsense", "http://[", "http://127.0.0.1:1:2"]
)
def test_an_address_that_is_none_changes_nothing(monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    assert run_counted()[:2] == (OUTCOME, 1)


def test_off_asks_nobody(prefect, monkeypatch):
    monkeypatch.setenv(bridge.MODE, "off")
    assert run_counted()[:2] == (OUTCOME, 1)
    assert prefect.calls == []


def test_on_says_that_no_server_answers(monkeypatch, caplog):
    monkeypatch.setenv(bridge.MODE, "on")
    monkeypatch.setenv("PREFECT_API_URL", refused_url())
    assert run_counted()[:2] == (OUTCOME, 1)
    assert "no server at" in caplog.text


def test_an_unknown_mode_is_refused_before_the_work(monkeypatch):
    monkeypatch.setenv(bridge.MODE, "maybe")
    with pytest.raises(ConfigError, match="auto, on, off"):
        bridge.run_stage("train", lambda: pytest.fail("must not start"))


def test_proxies_are_ignored(prefect, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, refused_url())
    run_counted()
    assert prefect.flow_states() == ["Running", "Completed"]


def test_the_checkout_s_profile_names_the_server(prefect, monkeypatch, tmp_path):
    monkeypatch.delenv("PREFECT_API_URL")
    (tmp_path / ".prefect").mkdir()
    profile = f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{prefect.url}"\n'
    (tmp_path / ".prefect" / "profiles.toml").write_text(profile)
    run_counted()
    assert prefect.flow_states() == ["Running", "Completed"]


def test_a_run_is_named_and_tagged_after_the_experiment(prefect, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "odd-moth")
    run_counted()
    [run] = prefect.told("/flow_runs/")
    assert prefect.told("/flows/") == [{"name": "train"}]
    assert run["name"] == "train @ odd-moth"
    assert run["tags"] == ["dvc", "stage:train", "exp:odd-moth"]
    assert run["parent_task_run_id"] is None


def test_log_lines_progress_and_results_are_shown(prefect):
    def work():
        logging.getLogger("pipeline").info("half way \udcff")
        list(logs.progress(range(4), total=4, unit="track", description="tracks"))
        return OUTCOME

    run_counted(work)
    [lines] = prefect.told("/logs/")
    assert [line["message"] for line in lines] == ["half way ?"]
    progress, table = prefect.told("/artifacts/")
    assert (progress["type"], progress["data"]) == ("progress", 100.0)
    assert json.loads(table["data"]) == [
        {"kind": "count", "name": "tracks in", "value": 3},
        {"kind": "skipped", "name": "too short", "value": 1},
        {"kind": "metric", "name": "loss", "value": 0.5},
        {"kind": "metric", "name": "per.train", "value": 2},
    ]
    assert prefect.calls[-1][1]["state"]["name"] == "Completed"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (AudioError("no sound"), "Failed"),
        (ValueError("a bug"), "Failed"),
        (StoppedError(15), "Crashed"),
        (KeyboardInterrupt(), "Crashed"),
        (SystemExit(3), "Crashed"),
    ],
)
def test_what_the_work_raises_passes_unchanged(prefect, error, state):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        bridge.run_stage("train", fail)
    assert caught.value is error
    assert prefect.flow_states() == ["Running", state]
    assert prefect.told("/logs/") == []


@pytest.mark.parametrize("mood", ["error", "nonsense", "silent"])
@pytest.mark.parametrize("since", ["the start", "mid-run"])
def test_a_failing_server_is_a_warning_and_a_short_wait(prefect, caplog, mood, since):
    if since == "the start":
        prefect.mood = mood

    def work():
        time.sleep(0.3)
        prefect.mood = mood
        logging.getLogger("pipeline").info("a line to send")
        return OUTCOME

    outcome, num_calls, took_s = run_counted(work)
    assert (outcome, num_calls) == (OUTCOME, 1)
    assert took_s < 4.0
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().startswith("Prefect: ")


def test_a_server_that_is_gone_at_the_end_costs_nothing(prefect):
    def work():
        time.sleep(0.3)
        prefect.shutdown()
        prefect.server_close()
        return OUTCOME

    outcome, num_calls, took_s = run_counted(work)
    assert (outcome, num_calls) == (OUTCOME, 1)
    assert took_s < 1.5


def test_the_last_lines_of_a_flood_are_kept(prefect):
    def work():
        for number in range(5000):
            logging.getLogger("pipeline").info("line %d", number)
        return OUTCOME

    run_counted(work)
    lines = [line["message"] for batch in prefect.told("/logs/") for line in batch]
    assert lines[-1] == "line 4999"
    assert all(len(batch) <= 200 for batch in prefect.told("/logs/"))


def test_logging_is_left_as_it_was(prefect):
    before = list(logging.getLogger().handlers)
    run_counted()
    assert logging.getLogger().handlers == before


def test_a_stage_of_melodac_run_takes_its_place_in_the_graph(prefect, monkeypatch, tmp_path):
    parent = "7c0a4a1e-0000-4000-8000-000000000000"
    monkeypatch.setenv(bridge.PARENT, parent)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  index: {cmd: x, outs: [data/index]}\n"
        "  train: {cmd: x, deps: [data/index/index.json], outs: [data/train]}\n"
    )
    run_counted()
    [node] = prefect.told("/task_runs/")
    assert node["flow_run_id"] == parent
    assert node["id"] == task_run_id_of(parent, "train")
    edge = {"input_type": "task_run", "id": task_run_id_of(parent, "index")}
    assert node["task_inputs"] == {"wait_for": [edge]}
    [run] = prefect.told("/flow_runs/")
    assert run["parent_task_run_id"] == node["id"]


@pytest.mark.parametrize("parent", ["no-uuid", "7c0a4a1e-0000-4000-8000-000000000000"])
def test_a_parent_that_cannot_be_joined_is_a_warning(prefect, monkeypatch, caplog, parent):
    monkeypatch.setenv(bridge.PARENT, parent)  # and there is no dvc.yaml here
    assert run_counted()[:2] == (OUTCOME, 1)
    assert "Prefect: " in caplog.text


def test_prefect_itself_is_never_imported(prefect):
    code = (
        "import sys; from pipeline.watch import bridge; from pipeline.records import Outcome\n"
        "bridge.run_stage('train', lambda: Outcome({}))\n"
        "sys.exit('prefect' in sys.modules or 'httpx' in sys.modules)"
    )
    for url in (prefect.url, refused_url()):
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PREFECT_API_URL": url}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=30)
    assert prefect.flow_states() == ["Running", "Completed"]


def test_the_process_ends_soon_beside_a_silent_server(prefect):
    prefect.mood = "silent"
    code = (
        "import sys; from pipeline.watch import bridge; from pipeline.records import Outcome\n"
        "bridge.run_stage('train', lambda: Outcome({}))\n"
        "print('done'); sys.exit(7)"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PREFECT_API_URL": prefect.url}
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (7, "done\n")
    assert time.monotonic() - started_s < 6.0
