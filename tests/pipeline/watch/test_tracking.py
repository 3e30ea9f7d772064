"""Tracking is offline, keeps secrets, and cannot fail a run."""

import getpass
import logging
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb

from pipeline.params import hash_params, load_params
from pipeline.watch.tracking import open_tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
ROOT = Path(__file__).resolve().parents[3]
PARAMS = load_params(ROOT / "params.yaml")
CLIP = np.zeros((2, 44100), dtype=np.float32)


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def params(mode, source="data/sample"):
    return PARAMS.model_copy(
        update={
            "runtime": PARAMS.runtime.model_copy(update={"wandb": mode}),
            "ingest": PARAMS.ingest.model_copy(update={"source": source}),
        }
    )


def use(tracker):
    tracker.log({"train/loss": 1.0, "train/is_clipped": False, "event/reason": "words"}, 1)
    tracker.log({"train/loss": "nan"}, 2)
    tracker.log_event("skip", "a loss that is not finite", 2)
    tracker.log_audio("free run", CLIP, 44100, "seed 0")


class Run:
    """A stand-in for W&B's run that remembers, and fails where it is told to."""

    def __init__(self, failing=None, error=RuntimeError):
        self.failing, self.error, self.logged, self.alerts = failing, error, [], []

    def _call(self, name):
        if name == self.failing:
            raise self.error(f"{name} does not work")

    def log(self, values, step=None):
        self._call("log")
        self.logged.append((step, values))

    def alert(self, title, text, level, wait_duration):
        self._call("alert")
        self.alerts.append((title, text))

    def finish(self):
        self._call("finish")


def test_off_writes_nothing_and_does_not_even_load_wandb(checkout):
    code = (
        "import sys; from pathlib import Path; from pipeline.params import load_params\n"
        "from pipeline.watch.tracking import open_tracker\n"
        "params = load_params(Path('params.yaml'))\n"
        "off = params.runtime.model_copy(update={'wandb': 'off'})\n"
        "with open_tracker(params.model_copy(update={'runtime': off}), job='train') as tracker:\n"
        "    tracker.log({'loss': 1.0}, 1)\n"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert list(checkout.iterdir()) == []


def canaries(tmp_path, monkeypatch):
    """Plant a secret everywhere a run could find one; words that must not be in any file."""
    for name in ("SOME_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DVC_STUDIO_TOKEN"):
        monkeypatch.setenv(name, "canary-environment")
    monkeypatch.setattr(sys, "argv", ["train", "--key=canary-argument"])
    repository = tmp_path / "repository"
    remote = "https://canary-user:canary-password@canary-host.example/canary.git"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=repository, check=True)
    (repository / "script.py").write_text("print('canary-code')")
    monkeypatch.chdir(repository)
    sys.stdout.write("canary-output")
    logging.getLogger("some.library").warning("canary-log")
    return [b"canary", *(word.encode() for word in (socket.gethostname(),) if len(word) > 4)]


def test_no_byte_of_an_offline_run_holds_a_secret(checkout, tmp_path, monkeypatch):
    words = canaries(tmp_path, monkeypatch)
    with open_tracker(params("offline", source="/canary-music/of/mine"), job="train") as tracker:
        use(tracker)
    files = [path for path in (checkout / ".scratch" / "wandb").rglob("*") if path.is_file()]
    assert [path for path in files if path.suffix == ".wandb"]
    assert [path for path in files if path.suffix == ".wav"]
    for path in files:
        content = path.read_bytes()
        assert not [word for word in words if word in content], path


def test_what_would_be_uploaded_names_neither_machine_nor_user(checkout, monkeypatch):
    """What lies beside it for reading here, under logs/, may name the folder it lies in."""
    with open_tracker(params("offline"), job="train") as tracker:
        use(tracker)
    folder = next((checkout / ".scratch" / "wandb" / "wandb").glob("offline-run-*"))
    uploaded = [folder / "files", *folder.glob("*.wandb")]
    names = [str(checkout), sys.executable, f"/{getpass.getuser()}/", "python3"]
    for path in (p for top in uploaded for p in (top, *top.rglob("*")) if p.is_file()):
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path


def test_nothing_is_written_outside_the_scratch_folder(checkout):
    with open_tracker(params("offline"), job="train") as tracker:
        use(tracker)
    assert [path.name for path in checkout.iterdir()] == [".scratch"]


def started_with(monkeypatch, mode="offline", job="train", run=None):
    heard = {}
    monkeypatch.setattr(wandb, "init", lambda **settings: heard.update(settings) or (run or Run()))
    with open_tracker(params(mode), job=job) as tracker:
        use(tracker)
    return heard


def test_runs_of_one_experiment_share_a_group(monkeypatch):
    heard = [started_with(monkeypatch, job=job) for job in ("train", "demos")]
    assert {one["group"] for one in heard} == {hash_params(params("offline"))}
    assert [one["job_type"] for one in heard] == ["train", "demos"]
    monkeypatch.setenv("DVC_EXP_NAME", "sunny-delay")
    assert started_with(monkeypatch)["group"] == "sunny-delay"
    assert started_with(monkeypatch)["name"] == "sunny-delay train"
    monkeypatch.setenv("WANDB_RUN_GROUP", "delays")
    assert started_with(monkeypatch)["group"] == "delays"


def test_every_parameter_is_shown_but_where_the_music_lies(monkeypatch):
    config = started_with(monkeypatch)["config"]
    expected = PARAMS.model_dump(mode="json")
    del expected["ingest"]["source"]
    expected["runtime"]["wandb"] = "offline"
    assert config == expected


def test_nothing_goes_online_that_was_not_asked_to(monkeypatch):
    assert started_with(monkeypatch)["mode"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert started_with(monkeypatch)["mode"] == "offline"
    assert started_with(monkeypatch, mode="online")["mode"] == "online"


def test_numbers_events_and_audio_arrive_and_words_do_not(monkeypatch):
    run = Run()
    started_with(monkeypatch, run=run)
    (one, first), (two, second), (three, third), (_, clip) = run.logged
    assert (one, first) == (1, {"train/loss": 1.0, "train/is_clipped": False})
    assert two == 2
    assert np.isnan(second["train/loss"])
    assert (three, third) == (2, {"event/skip": 1})
    assert run.alerts == [("skip", "update 2: a loss that is not finite")]
    assert list(clip) == ["audio/free run"]


ERRORS = [RuntimeError, OSError, KeyError, TypeError, AssertionError, MemoryError, wandb.Error]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("failing", ["log", "alert", "finish"])
def test_whatever_fails_is_one_warning(monkeypatch, caplog, failing, error):
    started_with(monkeypatch, run=Run(failing, error))
    assert caplog.text.count("W&B stopped recording") == 1
    assert f"{failing} does not work" in caplog.text


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", ["init", "Settings"])
def test_a_start_that_fails_is_one_warning(monkeypatch, caplog, name, error):
    def fail(*_, **__):
        raise error("no network")

    monkeypatch.setattr(wandb, name, fail)
    with open_tracker(params("online"), job="train") as tracker:
        use(tracker)
    assert caplog.text.count("goes on without it: ") == 1
    assert "no network" in caplog.text


def test_audio_that_fails_is_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(wandb, "Audio", lambda *_, **__: 1 / 0)
    started_with(monkeypatch)
    assert caplog.text.count("W&B stopped recording at audio 'free run'") == 1


def test_a_broken_installation_is_one_warning(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with open_tracker(params("offline"), job="train") as tracker:
        use(tracker)
    assert caplog.text.count("goes on without it") == 1


def test_a_folder_that_cannot_be_made_is_one_warning(checkout, caplog):
    (checkout / ".scratch").write_text("in the way")
    with open_tracker(params("offline"), job="train") as tracker:
        use(tracker)
    assert caplog.text.count("goes on without it") == 1


def test_an_error_of_the_run_itself_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: Run("finish"))
    with pytest.raises(ZeroDivisionError), open_tracker(params("offline"), job="train"):
        raise ZeroDivisionError
