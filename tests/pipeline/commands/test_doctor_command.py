"""`melodac doctor` from the command line: its words, its exit codes."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.commands import cli
from tests.doctor.runs import make_lines, write_run

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """The command in an empty checkout: exit code, output, errors."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "STARTED_IN", tmp_path)

    def melodac(*words):
        monkeypatch.setattr(sys, "argv", ["melodac", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return melodac


@pytest.fixture
def run(tmp_path):
    write_run(tmp_path / "run" / "checkpoints")
    lines = "".join(json.dumps(line) + "\n" for line in make_lines())
    (tmp_path / "run" / "log.jsonl").write_text(lines)
    return tmp_path / "run"


def test_the_exit_code_is_the_health_of_the_run(call, run):
    code, words, errors = call("doctor", "run", "--json", "report.json")
    assert (code, errors) == (0, "")
    assert "healthy, with warnings: failures 0, warnings 1" in words  # of other code: it is made up
    assert json.loads((run.parent / "report.json").read_text())["exit_code"] == 0
    assert call("doctor", "run", "--strict")[0] == 1


def test_a_damaged_checkpoint_is_a_failure_of_the_run(call, run):
    (run / "checkpoints" / "00000600" / "model.safetensors").write_bytes(b"")
    code, words, _ = call("doctor", "run")
    assert code == 1
    assert "FAILURE  damaged" in words


def test_without_a_run_one_line_says_what_to_do(call):
    code, words, errors = call("doctor")
    assert (code, words, errors.count("\n")) == (1, "", 1)
    assert "run `dvc repro train` first" in errors


def test_another_run_is_named_by_an_option(call, run):
    code, words, _ = call("doctor", "run", "--against", "run/checkpoints/00000500")
    assert code == 0
    assert "differs in no factor: the same run" in words
