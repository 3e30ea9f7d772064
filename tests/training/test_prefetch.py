"""Laws of reading ahead: the same results, the same errors, and no thread left behind."""

import threading
import traceback

import pytest

from melodac.errors import TrainingError
from melodac.training.data import Prefetcher


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("first", [1, 5])
def test_what_is_taken_is_what_is_read(depth, first):
    with Prefetcher(lambda update: update * 10, first, 8, depth=depth) as ahead:
        assert [ahead.take(update) for update in range(first, 9)] == [
            update * 10 for update in range(first, 9)
        ]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_nothing_is_read_twice_or_beyond_the_last_update(depth):
    read = []
    with Prefetcher(read.append, 2, 6, depth=depth) as ahead:
        for update in range(2, 7):
            ahead.take(update)
    assert read == [2, 3, 4, 5, 6]


def test_the_next_update_is_read_while_the_present_one_is_computed():
    is_read = {update: threading.Event() for update in range(1, 4)}
    with Prefetcher(lambda update: is_read[update].set(), 1, 3) as ahead:
        ahead.take(1)
        assert is_read[2].wait(10)


@pytest.mark.parametrize("depth", [0, 1])
def test_an_error_of_the_reader_is_raised_at_its_update_with_its_own_traceback(depth):
    def read_a_damaged_window(update):
        if update == 3:
            raise ValueError("window 7 is damaged")
        return update

    with Prefetcher(read_a_damaged_window, 1, 9, depth=depth) as ahead:
        assert (ahead.take(1), ahead.take(2)) == (1, 2)
        with pytest.raises(ValueError, match="window 7 is damaged") as caught:
            ahead.take(3)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "read_a_damaged_window" in names


def test_the_thread_ends_with_the_run_however_it_ends():
    with Prefetcher(lambda update: update, 1, 99) as ahead:
        ahead.take(1)
        assert len(threads()) == 1
    assert threads() == []
    with pytest.raises(ZeroDivisionError), Prefetcher(lambda update: update, 1, 99):
        raise ZeroDivisionError
    assert threads() == []


def test_only_the_next_update_can_be_taken():
    with Prefetcher(lambda update: update, 1, 2) as ahead:
        with pytest.raises(TrainingError, match="update 2 was asked for where 1 of 2 follows"):
            ahead.take(2)
        ahead.take(1)
        ahead.take(2)
        with pytest.raises(TrainingError, match="update 3"):
            ahead.take(3)


def test_a_run_that_reads_ahead_learns_the_same_to_the_bit(build_trainer, monkeypatch):
    direct = build_trainer()
    direct.run()
    asked = []

    def as_for_a_gpu(read, first, last, *, depth):
        asked.append(depth)
        return Prefetcher(read, first, last, depth=1)

    monkeypatch.setattr("melodac.training.trainer.Prefetcher", as_for_a_gpu)
    ahead = build_trainer()
    ahead.run()
    assert asked == [0], "on a CPU nothing is read ahead"
    for one, other in zip(
        ahead.state.model.parameters(), direct.state.model.parameters(), strict=True
    ):
        assert one.equal(other)
    assert threads() == []
