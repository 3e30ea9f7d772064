"""The `melodac` command: clear words, exit codes, light to start."""

import fcntl
import shutil
import socket
import subprocess
import sys
import urllib.request

import pytest

from pipeline import paths
from pipeline.watch import prefect_api as server
from tests.pipeline.fake_prefect import fake_prefect
from tests.pipeline.real_prefect import ROOT, environment, melodac, real_prefect


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A checkout with nothing in it yet."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['melodac', '--help']\n"
        "from pipeline.commands.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'prefect', 'dvc', 'numpy', 'rich', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("run", "ui", "verify"):
        assert f"\n  {name} " in done.stdout


def test_run_help_needs_no_checkout(tmp_path):
    done = melodac("run", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "melodac run -S train.delay=dia" in done.stdout


def test_outside_a_checkout_it_says_so(tmp_path):
    done = melodac("verify", cwd=tmp_path)
    assert done.returncode == 2
    assert "cd into a checkout of melodac" in done.stderr


def test_verify_names_what_is_missing_from_any_folder(workspace):
    (workspace / "data" / "deep").mkdir(parents=True)
    done = melodac("verify", cwd=workspace / "data" / "deep")
    assert done.returncode == 1
    assert str(paths.TOKENS) in done.stderr
    assert done.stderr.count("is missing, run `dvc repro`") == 2


def test_a_server_that_answers_is_used(workspace):
    with fake_prefect() as prefect:
        done = melodac("ui", "--port", str(prefect.server_port))
    assert done.returncode == 0
    assert f"already answers: http://127.0.0.1:{prefect.server_port}" in done.stdout


def test_a_port_in_other_hands_is_told(workspace):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = melodac("ui", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"melodac: --port {port}: another program listens there")


def test_two_servers_never_share_a_database(workspace):
    (workspace / ".prefect").mkdir()
    lock = workspace / ".prefect" / server.LOCK
    lock.write_text("http://127.0.0.1:4200")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = melodac("ui", "--port", str(port))
    assert done.returncode == 2
    assert "runs or is about to: http://127.0.0.1:4200" in done.stderr


@pytest.mark.slow
def test_ui_starts_a_server_that_answers(workspace):
    with real_prefect(workspace) as prefect:
        assert prefect.ask("/health") is True
        with urllib.request.urlopen(f"{prefect.address}/ui-settings", timeout=20) as answer:
            assert prefect.url in answer.read().decode()
        settings = prefect.ask("/admin/settings")["server"]
        assert settings["analytics_enabled"] is False
        assert (workspace / ".prefect" / "prefect.db").is_file()
