"""Processes that work together, for the tests: `python ranks_worker.py TASKS`.

Forked after the imports, so that a test waits for torch once only, and met through a file, so that
no port is taken. Each process leaves what it heard in `<TASKS>.<task>.<rank>`.
"""

import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from melodac.errors import MelodacError, OutputError
from melodac.training import state
from melodac.training.distributed import Ranks
from melodac.training.trainer import Callbacks, Trainer

MEETING_S = 60


@dataclass
class Task:
    """One run of a trainer by some processes."""

    trainer: tuple[Any, ...] = ()
    """Model, pattern, data, config, directory, identity; empty: `answer_all` instead."""
    world_size: int = 1
    sharding: str = "ddp"
    stop: dict[int, int] = field(default_factory=dict)
    """Update after which a rank alone is asked to stop."""
    die: dict[int, int] = field(default_factory=dict)
    """Update after which a rank alone is killed."""
    identities: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What a rank alone takes itself for."""
    poison: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Updates in which the logits of a rank alone are NaN."""


@dataclass
class Heard:
    """What one process heard and did."""

    updates: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Checkpoints that this process itself wrote."""
    error: str = ""
    answers: dict[str, Any] = field(default_factory=dict)


def main(path: Path) -> None:
    with path.open("rb") as file:
        tasks = [Task(**values) for values in pickle.load(file)]
    for number, task in enumerate(tasks):
        meeting = path.with_name(f"{path.name}.{number}.meeting")
        children = [
            get_context("fork").Process(
                target=take_part,
                args=(task, rank, meeting, path.with_name(f"{path.name}.{number}.{rank}")),
            )
            for rank in range(task.world_size)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()


def take_part(task: Task, rank: int, meeting: Path, answer: Path) -> None:
    if task.world_size > 1:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=task.world_size,
            timeout=timedelta(seconds=MEETING_S),
        )
    heard = Heard()
    try:
        if task.trainer:
            train(task, rank, heard)
        else:
            answer_all(Ranks.current(task.sharding), heard.answers)
    except MelodacError as error:
        heard.error = f"{type(error).__name__}: {error}"
    except RuntimeError as error:
        heard.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    answer.write_bytes(pickle.dumps(vars(heard)))
    os._exit(0)


def train(task: Task, rank: int, heard: Heard) -> None:
    model, pattern, data, config, directory, identity = task.trainer
    count_writes(heard)
    if rank in task.poison:
        model.register_forward_hook(poisoner(task.poison[rank], heard))

    def should_stop() -> bool:
        done = len(heard.updates)
        if done == task.die.get(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return done == task.stop.get(rank)

    trainer = Trainer(
        model,
        pattern,
        data,
        config=config,
        directory=directory,
        identity=task.identities.get(rank, identity),
        ranks=Ranks.current(task.sharding),
    )
    trainer.resume()
    trainer.run(
        Callbacks(
            on_update=heard.updates.append,
            on_validation=heard.validations.append,
            on_event=heard.events.append,
            should_stop=should_stop,
        )
    )


def answer_all(ranks: Ranks, answers: dict[str, Any]) -> None:
    """What one process gets from each call, all processes asking the same in the same order."""
    rank = ranks.rank
    answers["who"] = (rank, ranks.world_size, ranks.is_first)
    answers["share"] = list(ranks.share(4 * ranks.world_size))
    answers["deal"] = list(ranks.deal(5))
    answers["sum"] = ranks.sum(torch.tensor([1.0, rank])).tolist()
    answers["max"] = ranks.max(10 * rank)
    answers["any"] = [ranks.any(rank == 1), ranks.any(flag=False)]
    answers["from_first"] = ranks.from_first(lambda: f"said by {rank}")
    answers["refused by first"] = refusal(lambda: ranks.from_first(lambda: refuse(rank)))
    answers["equal"] = refusal(lambda: ranks.check_equal("abc", "code"))
    answers["unequal"] = refusal(lambda: ranks.check_equal(f"abc{rank == 1}", "code"))
    answers["full"] = sorted(ranks.full_tensors({"a": torch.ones(2)}))
    answers["still together"] = ranks.sum(torch.ones(())).item()


def refuse(rank: int) -> None:
    raise OutputError(f"disk of {rank} is full")


def refusal(ask) -> str:
    try:
        ask()
    except MelodacError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def poisoner(updates, heard):
    def poison(model, inputs, logits):
        is_due = model.training and len(heard.updates) + 1 in updates
        return logits * torch.nan if is_due else logits

    return poison


def count_writes(heard: Heard) -> None:
    write = state.write_checkpoint

    def counted(directory, update, **what):
        heard.written.append(f"{directory.name}/{update}")
        return write(directory, update, **what)

    state.write_checkpoint = counted


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
