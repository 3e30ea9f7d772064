"""The stage runner: two log lines, one clear error line, exit codes that come from the work."""

import logging
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from melodac.errors import AudioError
from pipeline import paths, run
from pipeline.records import Outcome, read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty checkout with valid params and a stage `ingest` that a test replaces."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELODAC_PREFECT", "off")

    def use(work):
        stage = SimpleNamespace(run=work)
        monkeypatch.setitem(sys.modules, "pipeline.stages.ingest", stage)

    return use


def test_a_stage_is_announced_and_counted(workspace, caplog):
    workspace(lambda params: Outcome({"files in": 3, "tracks out": 2}, {"too short": 1}, {"x": 1}))
    assert run.main(["ingest"]) == 0
    first, *_, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("ingest: start, code ")
    assert last.endswith("3 files in, 2 tracks out, skipped: 1 too short")
    assert read_json(paths.metrics_of("ingest")) == {"x": 1}


def test_a_named_error_is_one_line_and_exit_1(workspace, caplog):
    def fail(params):
        raise AudioError("nothing to hear")

    workspace(fail)
    assert run.main(["ingest"]) == 1
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == [
        "ingest: nothing to hear"
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_wrong_params_are_exit_2_before_the_stage_starts(workspace, caplog):
    workspace(lambda params: pytest.fail("must not start"))
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("size: nano", "size: 3"))
    assert run.main(["ingest"]) == 2
    assert "train.size = 3" in caplog.text


def test_an_unknown_error_is_not_swallowed(workspace):
    def fail(params):
        raise ZeroDivisionError

    workspace(fail)
    with pytest.raises(ZeroDivisionError):
        run.main(["ingest"])


def test_a_stop_is_exit_130(workspace):
    def stop(params):
        raise KeyboardInterrupt

    workspace(stop)
    assert run.main(["ingest"]) == 130


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ingest", "train"]])
def test_an_unknown_stage_is_exit_2(workspace, arguments, caplog):
    assert run.main(arguments) == 2
    assert "one of: ingest, normalize" in caplog.text
