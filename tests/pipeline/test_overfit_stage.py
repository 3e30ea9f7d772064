"""Laws of the overfit stage: what it leaves behind, passed or not, and with or without texts."""

import json

import pytest

from melodac.errors import TrainingError
from pipeline import paths
from pipeline.stages import index, overfit
from tests.pipeline.music_folder import params_for
from tests.pipeline.token_workplace import lay_out, make_header


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def small(*, updates, condition="none", embedding="codec"):
    return params_for(
        "music",
        index={"window_frames": 32, "min_track_frames": 32},
        overfit={"windows": 1, "window_frames": 16, "prefix_frames": 4, "updates": updates},
        train={"condition": condition, "embedding": embedding},
        runtime={"wandb": "off", "device": "cpu", "threads": 1},
    )


def run(params):
    lay_out(make_header(), num_codes=1024)
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
    assert all(problem in str(e.value) for problem in report["problems"])


@pytest.mark.slow
def test_two_runs_leave_the_same_bytes():
    run(small(updates=200))
    first = paths.OVERFIT_REPORT.read_bytes()
    run(small(updates=200))
    assert paths.OVERFIT_REPORT.read_bytes() == first
