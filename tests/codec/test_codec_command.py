"""`pipeline/commands/codec.py`: train for some minutes, export, measure; each step from files alone."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest
import soundfile
from typer.testing import CliRunner

from melodac.codec.weights import write_weights_folder
from melodac.codec_training.clips import is_held_out
from melodac.codec_training.state import read_architecture
from melodac.files import hash_file
from pipeline.commands.codec import _config, app
from tests.codec.conftest import SPECTRAL, build_spectral_model, compose

SMALL = ["batch_size=1", "crop_frames=16", "silent_updates=1"]


@pytest.fixture
def music(tmp_path):
    """One piece that is held out and one that is not."""
    folder = tmp_path / "music"
    folder.mkdir()
    names = [f"{index}.wav" for index in range(100)]
    chosen = [
        next(n for n in names if is_held_out(n)),
        next(n for n in names if not is_held_out(n)),
    ]
    for name in chosen:
        soundfile.write(folder / name, compose(0, 20_000).numpy(), 44_100)
    return folder


@pytest.fixture
def weights(tmp_path):
    """A codec that is small enough to be trained here."""
    folder = tmp_path / "tiny"
    write_weights_folder(folder, build_spectral_model(), SPECTRAL, name="tiny", training={})
    return folder


def run(*arguments: object, settings: tuple[str, ...] = ()):
    options = [word for setting in settings for word in ("--set", setting)]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def test_training_export_and_evaluation_follow_each_other(music, weights, tmp_path):
    state, mine = tmp_path / "state", tmp_path / "mine"
    train = ["train", "--source", music, "--state", state, "--minutes", 0.02]
    results = [
        run(*train, "--init", weights, settings=SMALL),
        run(*train, settings=SMALL),  # goes on
        run("export", "--state", state, "--folder", mine),
        run("evaluate", "--source", music, "--weights", mine),
    ]
    assert [result.exit_code for result in results] == [0] * 4, [r.output for r in results]
    assert "codes used" in results[-1].output
    with (mine / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
    exported = json.loads((mine / "config.json").read_text())
    begun = json.loads((weights / "config.json").read_text())
    assert (exported["name"], exported["training"]["sources"]) == ("mine", "music")
    assert exported["training"]["updates"] > 1
    assert exported["training"]["begun_from"] == begun["decoder_sha256"]
    assert exported["sha256"] == begun["sha256"]  # the codes are those it began with
    runs = [json.loads(line) for line in (state / "runs.jsonl").read_text().splitlines()]
    assert runs[0] == runs[1]
    assert runs[0]["config"]["batch_size"] == 1


def test_a_codec_is_trained_from_nothing(music, tmp_path):
    state, mine = tmp_path / "state", tmp_path / "mine"
    settings = (*SMALL, "fit_batches=70", "fit_rounds=1")  # 1,120 frames for 1,024 vectors
    results = [
        run("train", "--source", music, "--state", state, "--minutes", 0, settings=settings),
        run("export", "--state", state, "--folder", mine),
    ]
    assert [result.exit_code for result in results] == [0, 0], [r.output for r in results]
    assert read_architecture(state / "state.pt").front_end.num_codebooks == 9
    training = json.loads((mine / "config.json").read_text())["training"]
    assert (training["updates"], training["begun_from"]) == (0, "fresh")


def test_what_cannot_go_on_is_one_line(music, weights, tmp_path):
    train = ["train", "--source", music, "--state", tmp_path / "state", "--minutes", 0]
    nowhere = run(*train, "--init", tmp_path / "nowhere")
    assert (nowhere.exit_code, "config.json is missing" in nowhere.output) == (1, True)
    assert "Traceback" not in nowhere.output
    assert run(*train, "--init", weights, settings=SMALL).exit_code == 0
    again = run(*train, "--init", weights, settings=SMALL)
    assert (again.exit_code, "is begun already" in again.output) == (1, True)
    export = run("export", "--state", tmp_path, "--folder", tmp_path / "x")
    assert (export.exit_code, "nothing was trained there" in export.output) == (1, True)


def test_nothing_to_measure_is_said(weights, tmp_path):
    folder = tmp_path / "all"
    folder.mkdir()
    name = next(f"{index}.wav" for index in range(99) if not is_held_out(f"{index}.wav"))
    soundfile.write(folder / name, compose(0, 20_000).numpy(), 44_100)
    result = run("evaluate", "--source", folder, "--weights", weights)
    assert (result.exit_code, "nothing is held out" in result.output) == (1, True)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_state_and_says_so(music, weights, tmp_path):
    command = [
        sys.executable,
        "pipeline/commands/codec.py",
        "train",
        "--source",
        music,
        "--init",
        weights,
    ]
    command += ["--state", tmp_path / "state", *(f"--set={setting}" for setting in SMALL)]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "state" / "log.jsonl").is_file():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "state kept" in errors
    assert hash_file(tmp_path / "state" / "state.pt")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["weights.mel=7", "batch_size=3"], (7.0, 0.1, 3)),
        (['weights={"mel":7,"direct":1}'], (7.0, 1.0, 6)),
        ([], (1.0, 0.1, 6)),
    ],
)
def test_settings_lie_over_the_defaults(settings, expected):
    config = _config(settings)
    assert (config.weights.mel, config.weights.direct, config.batch_size) == expected


@pytest.mark.parametrize(
    "setting", ["batch_size=0", "speed=1", "batch_size=many", "weights.bass=1", "seed.x=1"]
)
def test_a_wrong_setting_stops_before_training(music, tmp_path, setting):
    state = tmp_path / "state"
    result = run("train", "--source", music, "--state", state, settings=(setting,))
    assert result.exit_code == 2
    assert setting.partition("=")[0].split(".")[0] in result.output
    assert not state.exists()
