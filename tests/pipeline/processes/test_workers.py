"""Laws of the worker processes: order kept, one crash costs one item, nobody is left behind."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from melodac.errors import AudioError
from pipeline.processes.workers import (
    WorkerCrash,
    WorkerOutOfMemory,
    WorkerTimeout,
    count_workers,
    map_in_workers,
)

ROOT = Path(__file__).resolve().parents[3]


JOBS = """
import ctypes, os, signal, time
from melodac.errors import AudioError

def square(number):
    time.sleep(0.01 * (number % 3))
    return number * number

def nap(duration_s):
    time.sleep(duration_s)
    return duration_s

def die_on(number, *, victims):
    if number in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

def misbehave(how):
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(0)
    if how == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        ctypes.CDLL(None).pause()
    if how == "bomb":
        return len(bytearray(400 << 20))
    if how == "leak":
        kept.append(bytearray(80 << 20))
    if how == "hungry":
        return len(bytearray(90 << 20))
    return how

kept = []

def unpicklable(number):
    return lambda: number

def fail_on(number, *, victim):
    if number == victim:
        raise AudioError(f"song {number}: no good")
    return number
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Functions in a module that a worker can import by name, as it cannot a test's."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "worker_jobs.py").write_text(JOBS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield importlib.import_module("worker_jobs")


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(jobs, workers):
    results = list(map_in_workers(jobs.square, range(30), workers=workers))
    assert results == [n * n for n in range(30)]


def test_no_items_is_no_work(jobs):
    assert list(map_in_workers(jobs.square, [], workers=2)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_worker_costs_its_item_only(jobs, workers):
    victims = {0, 5, 14}
    results = list(
        map_in_workers(partial(jobs.die_on, victims=victims), range(15), workers=workers)
    )
    assert results == [WorkerCrash() if n in victims else n for n in range(15)]


def test_an_error_is_raised_here(jobs):
    with pytest.raises(AudioError, match="song 3: no good"):
        list(map_in_workers(partial(jobs.fail_on, victim=3), range(6), workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crash_a_hang_and_a_bomb_cost_one_item_each(jobs, workers):
    items = ["a", "abort", "hang", "b", "segfault", "bomb", "exit", "c", "bomb", "d"]
    results = map_in_workers(jobs.misbehave, items, workers=workers, timeout_s=1.0, memory_mb=200)
    fates = {
        **dict.fromkeys(("abort", "segfault", "exit"), WorkerCrash()),
        "hang": WorkerTimeout(),
        "bomb": WorkerOutOfMemory(),
    }
    assert list(results) == [fates.get(item, item) for item in items]


def test_what_an_earlier_item_left_in_memory_decides_nothing(jobs):
    items = ["leak", "hungry", "leak", "leak", "hungry"]
    results = map_in_workers(jobs.misbehave, items, workers=1, memory_mb=128)
    assert list(results) == ["leak", 90 << 20, "leak", "leak", 90 << 20]


def test_time_counts_from_the_start_of_an_item(jobs):
    results = map_in_workers(jobs.nap, [0.3] * 6, workers=1, timeout_s=0.9)
    assert list(results) == [0.3] * 6


def test_a_slow_reader_costs_no_result(jobs):
    results = map_in_workers(jobs.square, range(4), workers=2, timeout_s=0.2)
    seen = []
    for result in results:
        time.sleep(0.3)
        seen.append(result)
    assert seen == [0, 1, 4, 9]


def test_one_slow_item_leaves_the_others_going(jobs):
    started_s = time.monotonic()
    items = [1.2, *[0.05] * 20]
    assert list(map_in_workers(jobs.nap, items, workers=2)) == items
    assert time.monotonic() - started_s < 2.1


def test_items_are_taken_as_they_are_needed(jobs):
    taken = []
    endless = (taken.append(n) or n for n in range(10_000))
    results = map_in_workers(jobs.square, endless, workers=2)
    assert next(results) == 0
    results.close()
    assert len(taken) < 100


def test_a_result_that_cannot_be_sent_is_an_error(jobs):
    with pytest.raises(TypeError, match="cannot be sent from a worker"):
        list(map_in_workers(jobs.unpicklable, [1], workers=1))


def test_nobody_is_left_when_reading_stops(jobs):
    before = set(multiprocessing.active_children())
    results = map_in_workers(jobs.nap, [0.0, 60.0, 60.0], workers=2)
    assert next(results) == 0.0
    results.close()
    assert set(multiprocessing.active_children()) == before


def test_workers_zero_is_every_core():
    assert count_workers(0) == len(os.sched_getaffinity(0))
    assert count_workers(5) == 5


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"import os, pathlib, sys, time\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'src')!r}]\n"
        "from pipeline.processes.workers import map_in_workers\n"
        "def work(number):\n"
        f"    pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(map_in_workers(work, range(4), workers=2))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    parent.kill()
    parent.wait()
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(is_running(pid) for pid in workers))


def wait_until(condition):
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
