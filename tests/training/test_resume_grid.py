"""The grid of resuming: three unlike runs, stopped and killed after every update, end as one.

Weights, moments, average, memories of the guards and best are compared as the bytes of the last
checkpoint; logged losses as they are. A killed run is one that did not write its checkpoint.
"""

from typing import NamedTuple

import pytest

from melodac.training.config import TrainConfig
from tests.tiny import change_config
from tests.training.faults import install
from tests.training.grid import CONFIGS, build_run, disturb, essence, last_bytes

UPDATES = 12
BURST = dict.fromkeys((7, 8, 9), "nan loss") | {3: "spike"}


class Killed(Exception):
    """Stands for SIGKILL: nothing is written any more."""


class Log:
    """What a run says, with lines beyond a resumed update dropped."""

    def __init__(self):
        self.lines = []

    def resume(self, update):
        self.lines = [line for line in self.lines if line["update"] <= update]

    def callbacks(self, kill_after=None, stop_after=None):
        def on_update(line):
            self.lines.append({"kind": "train", **line})
            if line["update"] == kill_after:
                raise Killed

        return {
            "on_update": on_update,
            "on_validation": lambda line: self.lines.append({"kind": "validation", **line}),
            "on_event": lambda event: self.lines.append({"kind": "event", **event.line()}),
            "should_stop": lambda: bool(self.lines) and self.lines[-1]["update"] == stop_after,
        }


class Whole(NamedTuple):
    """A run that nobody stopped."""

    config: TrainConfig
    lines: list
    files: dict


def points(fast):
    """Every update; those not named only with the slow tests."""
    return [
        update if update in fast else pytest.param(update, marks=pytest.mark.slow)
        for update in range(1, UPDATES + 1)
    ]


@pytest.fixture(scope="module")
def finished():
    """What was trained already, by name."""
    return {}


@pytest.fixture(params=[*CONFIGS, "faulty"])
def whole(request, finished, train_config, monkeypatch, tmp_path_factory):
    name = request.param
    if name == "faulty":
        install(monkeypatch, BURST)
    if name not in finished:
        config = change_config(train_config, CONFIGS.get(name, {}))
        folder, log = tmp_path_factory.mktemp("whole"), Log()
        build_run(config, folder, **log.callbacks()).run()
        finished[name] = Whole(config, essence(log.lines), last_bytes(folder, UPDATES))
    return finished[name]


def go_on(config, directory, log):
    """Resume and run to the end."""
    trainer = build_run(config, directory, **log.callbacks())
    assert trainer.resume() == ()
    log.resume(trainer.update)
    trainer.run()
    return Whole(config, essence(log.lines), last_bytes(directory, UPDATES))


def test_the_faulty_run_of_the_grid_goes_back_and_the_others_do_not(whole, request):
    happened = [line["event"] for line in whole.lines if line["kind"] == "event"]
    is_faulty = request.node.callspec.params["whole"] == "faulty"
    assert ("rollback" in happened) == is_faulty
    assert happened.count("skip") == (4 if is_faulty else 0)


@pytest.mark.parametrize("update", points(fast={5, 8}))
def test_a_run_killed_after_any_update_ends_as_if_it_had_not_been(whole, tmp_path, update):
    log = Log()
    with pytest.raises(Killed):
        build_run(whole.config, tmp_path, **log.callbacks(kill_after=update)).run()
    disturb(tmp_path, update)
    assert go_on(whole.config, tmp_path, log) == whole


@pytest.mark.parametrize("update", points(fast={4}))
def test_a_run_stopped_after_any_update_ends_as_if_it_had_not_been(whole, tmp_path, update):
    log = Log()
    trainer = build_run(whole.config, tmp_path, **log.callbacks(stop_after=update))
    assert trainer.run().update == update
    assert go_on(whole.config, tmp_path, log) == whole
