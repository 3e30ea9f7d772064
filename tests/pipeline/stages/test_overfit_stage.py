"""Laws of the overfit stage: what it leaves behind, passed or not, and what then goes on."""

import json
import logging

import pytest

from melodac.errors import TrainingError
from pipeline import paths
from pipeline.stages import index, overfit
from tests.pipeline.music_folder import params_for
from tests.pipeline.token_workplace import lay_out, make_header


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small(*, updates, condition="none", embedding="codec", action="stop"):
    return params_for(
        "music",
        index={"window_frames": 32, "min_track_frames": 32},
        overfit={
            "action": action,
            "windows": 1,
            "window_frames": 16,
            "prefix_frames": 4,
            "updates": updates,
        },
        train={"condition": condition, "embedding": embedding},
        runtime={"wandb": "off", "device": "cpu", "threads": 1},
    )


def run(params, num_codes=1024):
    lay_out(make_header(), num_codes=num_codes)
    index.run(params)
    return overfit.run(params)


def test_every_number_is_left_behind():
    outcome = run(small(updates=200))
    report = json.loads(paths.OVERFIT_REPORT.read_text())
    assert report["is_passed"]
    assert report["problems"] == []
    assert report["free_runs"]["from_nothing"] == 1.0
    assert set(report["free_runs"]["sampled"]) == {"0.5", "1.0"}
    assert report["gradients"]["head"]["real"] > 0
    assert report["audit"]["loss"] == pytest.approx(6.93, abs=0.05)
    assert outcome.metrics["free_run_accuracy"] == 1.0
    assert outcome.metrics["least_nats_below_constant"] > 1


def test_the_report_of_a_gate_that_fails_is_left_behind_too():
    with pytest.raises(TrainingError, match="windows were not learned by heart in 3 updates") as e:
        # a table that serves both ends has every code right after 3 updates, if not yet surely
        run(small(updates=3, embedding="learned"))
    assert "the loss is still falling" in str(e.value)
    report = json.loads(paths.OVERFIT_REPORT.read_text())
    assert not report["is_passed"]
    assert report["problems"] != []
    assert report["cause"] in str(e.value)
    assert "\n" not in str(e.value)
    assert "overfit.action warn goes on" in str(e.value)


def test_a_gate_that_only_warns_fails_and_the_pipeline_goes_on(caplog):
    caplog.set_level(logging.WARNING)
    outcome = run(small(updates=3, action="warn"))
    report = json.loads(paths.OVERFIT_REPORT.read_text())
    assert report["action"] == "warn"
    assert report["is_passed"] is outcome.metrics["is_passed"] is False
    assert outcome.metrics["cause"] == report["cause"] != ""
    (warning,) = [record.getMessage() for record in caplog.records if "overfit" in record.name]
    assert warning.startswith("overfit.action is warn, so the pipeline goes on, but 1 windows were")
    assert report["cause"] in warning


def test_a_gate_that_is_off_memorises_nothing_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(overfit, "memorise", None)  # whoever calls it fails
    outcome = run(small(updates=3, action="off"))
    assert json.loads(paths.OVERFIT_REPORT.read_text()) == {"action": "off", "is_passed": None}
    assert outcome.metrics == {"action": "off", "is_passed": None}
    assert "overfit.action is off" in caplog.text


@pytest.mark.parametrize("action", ["stop", "warn"])
def test_a_folder_of_silence_is_told_in_so_many_words(action, caplog):
    params = small(updates=3, action=action)
    if action == "stop":
        with pytest.raises(TrainingError, match="finds no music to memorise"):
            run(params, num_codes=1)
    else:
        outcome = run(params, num_codes=1)
        assert not outcome.metrics["is_passed"]
        assert "the overfit gate failed, and overfit.action is warn" in caplog.text
    report = json.loads(paths.OVERFIT_REPORT.read_text())
    assert report["is_passed"] is False
    assert "silence or standing tones" in report["cause"]


def test_the_stage_hands_the_gate_s_notes_on(caplog):
    caplog.set_level(logging.INFO)
    params = small(updates=200)
    gate = params.overfit.model_copy(update={"window_frames": 128})
    run(params.model_copy(update={"overfit": gate}))
    assert "windows have 120 frames instead of 128" in caplog.text


@pytest.mark.slow
def test_two_runs_leave_the_same_bytes():
    run(small(updates=200))
    first = paths.OVERFIT_REPORT.read_bytes()
    run(small(updates=200))
    assert paths.OVERFIT_REPORT.read_bytes() == first
