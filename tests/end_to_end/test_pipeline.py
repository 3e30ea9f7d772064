"""From a fresh clone to the listening page, as a user would run it, on the smallest params."""

import json
import re

import pytest

from pipeline import paths
from pipeline.run import STAGES

pytestmark = pytest.mark.slow
UPSTREAM = ("ingest", "normalize", "encode", "index")


def test_repro_reaches_the_listening_page(finished):
    assert finished.first.returncode == 0, finished.first.stdout + finished.first.stderr
    page = (finished.folder / paths.DEMOS / "index.html").read_text()
    clips = re.findall(r'<audio[^>]*src="([^"]+)"', page)
    assert len(clips) >= 4
    assert all((finished.folder / paths.DEMOS / clip).stat().st_size > 1000 for clip in clips)


def test_every_stage_says_what_it_did(finished):
    said = finished.first.stdout + finished.first.stderr
    for stage in STAGES:
        assert re.search(rf"{stage}: start, code .+, params \w+, input \w+", said)
        assert re.search(rf"{stage}: done in .+, skipped: ", said)
        assert json.loads((finished.folder / paths.metrics_of(stage)).read_text())


def test_the_gate_memorised(finished):
    report = json.loads((finished.folder / paths.OVERFIT_REPORT).read_text())
    assert report["is_passed"]
    numbers = json.loads((finished.folder / paths.metrics_of("overfit")).read_text())
    assert numbers["free_run_accuracy"] >= 0.99


def test_the_doctor_was_there(finished):
    """Twelve updates teach nothing, and the report says so."""
    report = json.loads((finished.folder / paths.TRAIN_DOCTOR).read_text())
    failed = {found["check"] for found in report["findings"] if found["severity"] == "failure"}
    assert "finite" not in failed
    assert report["exit_code"] == int(bool(failed))
    assert len(report["findings"]) > 30


def test_second_repro_is_up_to_date(finished):
    again = finished.run("dvc", "repro")
    assert again.returncode == 0
    assert "up to date" in again.stdout + again.stderr


def test_nothing_else_in_the_checkout_changed(finished):
    status = finished.run("git", "status", "--porcelain").stdout.split("\n")
    new = {line[3:] for line in status if line} - {"dvc.lock"}
    assert all(name.startswith("data/") for name in new), new


def test_one_changed_factor_skips_what_came_before(finished):
    changed = finished.run("dvc", "exp", "run", "-S", "train.delay=dia")
    said = changed.stdout + changed.stderr
    assert changed.returncode == 0, said
    for stage in UPSTREAM:
        assert f"Stage '{stage}' didn't change, skipping" in said
    for stage in ("overfit", "train", "evaluate", "demos"):
        assert f"Running stage '{stage}'" in said
    shown = finished.run("dvc", "exp", "show", "--json").stdout
    assert shown.count('"delay": "dia"') >= 1
    assert shown.count('"delay": "musicgen"') >= 1


def test_verify_finds_the_results_sound(finished):
    verified = finished.run("melodac", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_generate_writes_audio(finished, tmp_path):
    made = finished.run("melodac", "generate", "--seconds", "1", "--output", str(tmp_path))
    assert made.returncode == 0, made.stdout + made.stderr
    assert len(list(tmp_path.glob("*.flac"))) == 1
