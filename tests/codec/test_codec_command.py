"""`pipeline/codec.py`: train for some minutes, export, measure; each step from files alone."""

import csv
import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from melodac.codec.load import BUNDLED_FOLDER
from melodac.codec.training.clips import is_held_out
from pipeline.codec import app


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    names = [f"{index}.wav" for index in range(100)]
    chosen = [
        next(n for n in names if is_held_out(n)),
        next(n for n in names if not is_held_out(n)),
    ]
    for name in chosen:
        soundfile.write(
            folder / name, 0.1 * np.random.default_rng(0).standard_normal(20_000), 44_100
        )
    return folder


def test_training_export_and_evaluation_follow_each_other(music, tmp_path):
    state, weights = tmp_path / "state", tmp_path / "weights"
    run = CliRunner().invoke
    train = ["train", "--minutes", "0", "--source", str(music), "--state", str(state)]
    results = [
        run(app, [*train, "--set", "compiled=false", "--set", "batch_size=1"]),
        run(app, ["export", "--state", str(state), "--folder", str(weights)]),
        run(app, ["evaluate", "--source", str(music), "--weights", str(weights)]),
    ]
    assert [result.exit_code for result in results] == [0, 0, 0], [r.output for r in results]
    assert "codes used" in results[-1].output
    with (weights / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    bundled = json.loads((BUNDLED_FOLDER / "config.json").read_text())
    exported = json.loads((weights / "config.json").read_text())
    assert exported["training"]["updates"] == bundled["training"]["updates"]


@pytest.mark.parametrize("setting", ["batch_size=0", "speed=1", "batch_size=many"])
def test_a_wrong_setting_stops_before_training(music, tmp_path, setting):
    state = tmp_path / "state"
    arguments = ["train", "--source", str(music), "--state", str(state), "--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert setting.partition("=")[0] in result.output
    assert not state.exists()
