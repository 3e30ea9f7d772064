"""Runs that are really killed, at random moments, again and again, with damage done besides."""

import os
import random
import signal
import time

import pytest

from melodac.training.checkpoint import latest_checkpoint
from melodac.training.trainer import Callbacks
from pipeline.experiment.train_log import TrainLog, read_log
from tests.tiny import change_config
from tests.training.grid import CONFIGS, build_run, disturb, essence, last_bytes

UPDATES = 40
KILLS = 14


def run_in_child(config, directory, log_path):
    """Resume and train in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    trainer = build_run(config, directory)
    trainer.resume()
    log = TrainLog(log_path, trainer.update)
    trainer.callbacks = Callbacks(
        on_update=lambda line: log.write("train", line),
        on_validation=lambda line: log.write("validation", line),
        on_event=lambda event: log.write("event", event.line()),
    )
    trainer.run()
    os._exit(0)


def kill_at_random(child, log_path, draw, update_s):
    """Kill a child while it starts, or a few updates after its first line; whether it still ran."""
    size = log_path.stat().st_size if log_path.exists() else 0
    is_early = draw.random() < 0.25
    while not is_early:
        # a resumed log is first cut back, so growth is a sign of life
        if log_path.exists() and log_path.stat().st_size > size:
            break
        size = min(size, log_path.stat().st_size if log_path.exists() else 0)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the run ended before enough kills"
        time.sleep(0.001)
    time.sleep(draw.uniform(0.0, 3.0 * update_s))
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def damage_newest(directory):
    """Cut the newest checkpoint short, as a bad disk does; if there is one to fall back to."""
    folders = sorted(path for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
    is_spare = len(folders) > 1
    if is_spare:
        os.truncate(folders[-1] / "optimizer.safetensors", 1000)
    return is_spare


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(train_config, tmp_path, name):
    changes = {"updates": UPDATES, "checkpoint_every": 2, **CONFIGS[name]}
    config = change_config(train_config, changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    started_s = time.monotonic()
    os.waitpid(run_in_child(config, whole, tmp_path / "whole.jsonl"), 0)
    update_s = (time.monotonic() - started_s) / UPDATES
    draw, log_path, num_damaged = random.Random(name), tmp_path / "killed.jsonl", 0
    for kill in range(KILLS):
        assert kill_at_random(run_in_child(config, killed, log_path), log_path, draw, update_s)
        found = latest_checkpoint(killed / "checkpoints")
        assert len(found.warnings) <= num_damaged
        if found.checkpoint is not None:
            disturb(killed, found.checkpoint.update)
            if kill % 4 == 3 and not found.warnings:
                num_damaged += damage_newest(killed)
    os.waitpid(run_in_child(config, killed, log_path), 0)
    assert last_bytes(killed, UPDATES) == last_bytes(whole, UPDATES)
    assert essence(read_log(log_path)) == essence(read_log(tmp_path / "whole.jsonl"))
