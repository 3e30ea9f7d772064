"""Tracking is offline, keeps secrets, and cannot fail a run."""

import pytest
import wandb

from pipeline.tracking import open_tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def written(folder):
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_off_writes_nothing(checkout):
    with open_tracker("off", group="train", config={}) as tracker:
        tracker.log({"loss": 1.0}, 1)
    assert list(checkout.iterdir()) == []


def test_offline_records_inside_the_checkout_and_no_secret(checkout, monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "canary-in-the-environment")
    monkeypatch.setattr("sys.argv", ["train", "--key=canary-on-the-command-line"])
    with open_tracker("offline", group="train", config={"train": {"seed": 7}}) as tracker:
        tracker.log({"loss": 1.0}, 1)
    assert list((checkout / ".scratch" / "wandb").rglob("*.wandb"))
    assert b"canary" not in written(checkout)


def test_a_start_that_fails_is_a_warning(monkeypatch, caplog):
    def fail(**settings):
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", fail)
    with open_tracker("online", group="train", config={}) as tracker:
        tracker.log({"loss": 1.0}, 1)
    assert "goes on without it: no network" in caplog.text


def test_a_record_that_fails_is_one_warning(monkeypatch, caplog):
    class Broken:
        def log(self, metrics, step):
            raise OSError("disk full")

        def finish(self):
            raise OSError("disk full")

    monkeypatch.setattr(wandb, "init", lambda **settings: Broken())
    with open_tracker("offline", group="train", config={}) as tracker:
        tracker.log({"loss": 1.0}, 1)
        tracker.log({"loss": 1.0}, 2)
    assert caplog.text.count("stopped recording") == 1
