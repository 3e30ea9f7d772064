"""`pipeline/codec.py`: train for some minutes, export, measure; each step from files alone."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from melodac.codec.architecture import BUNDLED_ARCHITECTURE, build_model
from melodac.codec.load import BUNDLED_FOLDER
from melodac.codec.training.clips import is_held_out
from melodac.codec.training.config import DAC_RECIPE
from melodac.codec.training.state import read_saved_codec
from melodac.durable import hash_file
from pipeline.codec import _config, app


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


@pytest.fixture
def official(tmp_path, tiny_architecture):
    """A file of the official form, tiny."""
    kwargs = tiny_architecture.model_dump() | {"quantizer_dropout": 0.5}
    state = build_model(tiny_architecture).state_dict()
    torch.save({"state_dict": state, "metadata": {"kwargs": kwargs}}, tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


def test_weights_of_the_official_form_are_trained_further(music, official, tmp_path):
    state, run = tmp_path / "state", CliRunner().invoke
    small = ["compiled=false", "batch_size=1", "crop=4096", "adversarial.shape.width=0.05"]
    train = ["train", "--source", str(music), "--state", str(state), "--init", str(official)]
    train += [word for setting in small for word in ("--set", setting)]
    weights = tmp_path / "mine"
    results = [
        run(app, [*train, "--minutes", "0.02"]),
        run(app, [*train, "--minutes", "0.02"]),  # the same command resumes
        run(app, ["export", "--state", str(state), "--folder", str(weights)]),
        run(app, ["evaluate", "--source", str(music), "--weights", str(weights)]),
    ]
    assert [result.exit_code for result in results] == [0] * 4, [r.output for r in results]
    exported = json.loads((weights / "config.json").read_text())
    assert (exported["name"], exported["training"]["sources"]) == ("mine", "music")
    assert exported["training"]["updates"] > 1
    assert exported["training"]["begun_from"] == hash_file(official)
    runs = [json.loads(line) for line in (state / "runs.jsonl").read_text().splitlines()]
    assert runs[0]["config"]["weights"]["mel"] == DAC_RECIPE.weights.mel
    assert runs[0] == runs[1]


def test_what_cannot_go_on_is_one_line(music, official, tmp_path):
    train = ["train", "--source", str(music), "--state", str(tmp_path / "state")]
    result = CliRunner().invoke(app, [*train, "--init", "nowhere"])
    assert result.exit_code == 1
    assert "error: 'nowhere' is neither" in result.output
    assert "Traceback" not in result.output
    result = CliRunner().invoke(app, [*train, "--init", str(official), "--fresh"])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["export", "--state", str(tmp_path), "--folder", "x"])
    assert (result.exit_code, "nothing was trained there" in result.output) == (1, True)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_state_and_says_so(music, official, tmp_path):
    command = [sys.executable, "pipeline/codec.py", "train", "--source", str(music)]
    command += ["--state", str(tmp_path / "state"), "--init", str(official)]
    command += ["--set", "compiled=false", "--set", "adversarial.begins_at=null"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "state" / "log.jsonl").is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "state kept" in errors
    assert read_saved_codec(tmp_path / "state" / "state.pt").origin == hash_file(official)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["weights.mel=7", "batch_size=3"], (7.0, 0.8, 3)),
        (['weights={"mel":7,"complex_spectrum":1}'], (7.0, 1.0, 4)),
        ([], (2.0, 0.8, 4)),
    ],
)
def test_settings_lie_over_the_recipe(settings, expected):
    config = _config(settings, BUNDLED_ARCHITECTURE)
    found = (config.weights.mel, config.weights.complex_spectrum, config.batch_size)
    assert found == expected


@pytest.mark.parametrize(
    "setting", ["batch_size=0", "speed=1", "batch_size=many", "weights.bass=1", "seed.x=1"]
)
def test_a_wrong_setting_stops_before_training(music, tmp_path, setting):
    state = tmp_path / "state"
    arguments = ["train", "--source", str(music), "--state", str(state), "--set", setting]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert setting.partition("=")[0].split(".")[0] in result.output
    assert not state.exists()
