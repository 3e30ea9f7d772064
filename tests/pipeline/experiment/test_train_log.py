"""The training log of a resumed run reads as if the run had never stopped."""

import math

from melodac.training.events import Event
from pipeline.experiment.train_log import (
    EVENT,
    TRAIN,
    VALIDATION,
    TrainLog,
    curve,
    read_curve,
    read_log,
    write_curve,
)
from pipeline.experiment.training_run import RunWatcher


def write_updates(log, first, last):
    for update in range(first, last + 1):
        log.write(TRAIN, {"update": update, "loss": float(update)})


def test_a_resumed_log_equals_an_undisturbed_one(tmp_path):
    write_updates(TrainLog(tmp_path / "whole", 0), 1, 6)
    write_updates(TrainLog(tmp_path / "stopped", 0), 1, 5)
    write_updates(TrainLog(tmp_path / "stopped", 3), 4, 6)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "stopped").read_bytes()


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "log"
    write_updates(TrainLog(path, 0), 1, 3)
    path.write_bytes(path.read_bytes()[:-5])
    assert [line["update"] for line in read_log(path)] == [1, 2]
    TrainLog(path, 2)
    assert path.read_text().endswith("\n")


def test_the_curve_averages_what_came_since_the_last_validation():
    lines = [
        {"kind": TRAIN, "update": 1, "loss": 4.0},
        {"kind": TRAIN, "update": 2, "loss": 2.0},
        {"kind": VALIDATION, "update": 2, "loss": 3.5},
        {"kind": TRAIN, "update": 3, "loss": 1.0},
        {"kind": VALIDATION, "update": 3, "loss": 3.0},
    ]
    assert curve(lines) == [
        {"update": 2, "train_nats": 3.0, "validation_nats": 3.5},
        {"update": 3, "train_nats": 1.0, "validation_nats": 3.0},
    ]


def test_the_curve_comes_back(tmp_path):
    rows = [{"update": 2.0, "train_nats": 0.1 + 0.2, "validation_nats": 3.5}]
    write_curve(tmp_path / "history.csv", rows)
    assert read_curve(tmp_path / "history.csv") == rows


def test_a_mean_that_is_not_known_is_an_empty_cell(tmp_path):
    path = tmp_path / "history.csv"
    write_curve(path, curve([{"kind": VALIDATION, "update": 5, "loss": 3.5}]))
    assert path.read_text().splitlines()[1] == "5,,3.5"
    (row,) = read_curve(path)
    assert math.isnan(row["train_nats"])
    assert row["validation_nats"] == 3.5


def test_events_and_refused_updates_leave_the_curve_as_it_is():
    lines = [
        {"kind": TRAIN, "update": 1, "loss": 4.0},
        {"kind": TRAIN, "update": 2, "loss": "nan"},
        {"kind": EVENT, "update": 2, "event": "skip", "reason": "a word", "loss": "nan"},
        {"kind": VALIDATION, "update": 2, "loss": 3.5},
    ]
    assert curve(lines) == [{"update": 2, "train_nats": 4.0, "validation_nats": 3.5}]


class Heard:
    """A tracker that remembers."""

    def __init__(self):
        self.numbers, self.events = [], []

    def log(self, metrics, update):
        self.numbers.append((update, metrics))

    def log_event(self, name, reason, update):
        self.events.append((update, name, reason))


def test_what_a_run_says_reaches_the_log_and_the_tracker_alike(tmp_path):
    tracker = Heard()
    watcher = RunWatcher(TrainLog(tmp_path / "log", 0), tracker, lambda *_: None)
    watcher.on_update({"update": 1, "loss": 4.0, "frames_per_s": 10.0})
    watcher.on_event(Event("skip", 1, "the loss is not finite", {"loss": math.nan}))
    watcher.on_validation({"update": 1, "loss": 5.0, "loss_k0": 5.5})
    lines = read_log(tmp_path / "log")
    assert [line["kind"] for line in lines] == [TRAIN, EVENT, VALIDATION]
    assert lines[1]["reason"] == "the loss is not finite"
    assert lines[1]["loss"] == "nan"
    assert tracker.events == [(1, "skip", "the loss is not finite")]
    assert [sorted(metrics) for _, metrics in tracker.numbers] == [
        ["train/frames_per_s", "train/loss", "train/update"],
        ["validation/loss", "validation/loss_k0", "validation/update"],
    ]
