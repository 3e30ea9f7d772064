"""Wrong input costs one clear line: no traceback, and nothing half-written under a final name."""

import shutil

import pytest

from pipeline import paths

pytestmark = pytest.mark.slow


def assert_refused(clone, code, *told):
    done = clone.run("python", "pipeline/run.py", "ingest")
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    for words in told:
        assert words in said
    assert not (clone.folder / paths.CATALOGUE).exists()
    assert not (clone.folder / paths.INGEST_REPORT).exists()


def test_missing_source(clone):
    clone.change_params(ingest={"source": "nowhere"})
    assert_refused(clone, 1, "nowhere")


def test_empty_source(clone):
    (clone.folder / "empty").mkdir()
    clone.change_params(ingest={"source": "empty"})
    assert_refused(clone, 1, "empty")


def test_source_of_renamed_text(clone):
    (clone.folder / "texts").mkdir()
    for number in range(3):
        (clone.folder / "texts" / f"{number}.wav").write_text("these are only words\n" * 100)
    clone.change_params(ingest={"source": "texts"})
    assert_refused(clone, 1, "texts")


def test_unknown_key(clone):
    clone.change_params(train={"larning_rate": 1.0})
    assert_refused(clone, 2, "train.larning_rate", "did you mean learning_rate?")


def test_negative_length(clone):
    clone.change_params(demos={"duration_s": -1.0})
    assert_refused(clone, 2, "demos.duration_s = -1.0", "greater than 0")


def test_unwritable_output(clone):
    shutil.rmtree(clone.folder / "data" / "ingest")
    (clone.folder / "data" / "ingest").write_text("a file where a folder should be")
    assert_refused(clone, 1, "cannot be written")


@pytest.mark.parametrize("command", ["repro", "run"])
def test_the_same_line_reaches_the_user_through_dvc(clone, command):
    clone.change_params(train={"larning_rate": 1.0})
    done = clone.run(*(["dvc", "repro"] if command == "repro" else ["melodac", "run"]))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "train.larning_rate" in said
    assert "Traceback" not in said
