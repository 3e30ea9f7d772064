"""Laws of `melodac plan`: it says what the train stage would do, and leaves nothing behind."""

from pathlib import Path

import pytest

from melodac.errors import ConfigError
from melodac.training.planning.cost import PassTimes
from pipeline.commands import plan as plan_module
from pipeline.commands.plan import plan
from pipeline.params import load_params
from pipeline.stages import index
from tests.pipeline.token_workplace import lay_out, make_header
from tests.tiny import change_config

PARAMS = Path(__file__).resolve().parents[3] / "params.yaml"


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lay_out(make_header(codebooks=(2,)), lengths=(100, 80, 120, 90, 90))
    params = load_params(PARAMS)
    window = {"window_frames": 32, "min_track_frames": 16}
    params = change_config(
        params,
        {"index": window, "train": {"context": (), "updates": 1000}, "runtime": {"threads": 1}},
    )
    index.run(params)
    return params


@pytest.fixture
def no_passes(monkeypatch):
    monkeypatch.setattr(plan_module, "time_passes", lambda *_: PassTimes(0.6, 0.1))


def files():
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*")}


def test_a_plan_writes_nothing(params):
    before = files()
    assert plan(params)
    assert files() == before


def test_a_plan_shows_the_schedule_and_what_the_run_takes(params, no_passes):
    text = "\n".join(plan(params))
    for words in ("learning_rate", "warm-up ends", "last update", "model: ", "memory: about"):
        assert words in text
    assert "windows: up to 32 frames are 33 steps" in text
    assert "disk: up to " in text
    assert "time: about 11.7 minutes for 1000 updates" in text


def test_a_plan_warns_of_a_model_larger_than_its_music(params, no_passes):
    assert any("can learn this music by heart" in line for line in plan(params))


def test_demos_longer_than_any_window_are_said(params, no_passes):
    said = "demos of 6 s are 517 frames, windows have 32"
    assert any(said in line for line in plan(params))
    short = change_config(params, {"demos": {"duration_s": 0.3, "prefix_s": 0.1}})
    assert not any("demos of" in line for line in plan(short))


def test_what_training_would_refuse_is_refused(params):
    wrong = params.train.model_copy(update={"size": "nono"})
    with pytest.raises(ConfigError, match="unknown model size 'nono'"):
        plan(params.model_copy(update={"train": wrong}))
