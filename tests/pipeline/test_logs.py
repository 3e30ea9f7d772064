"""Laws of progress: who watches a file instead of a terminal learns how far long work is."""

import logging
import re
import sys
import threading
import time

import pytest

from pipeline import logs

INTERVAL_S = 0.05


@pytest.fixture
def lines(monkeypatch, caplog):
    """Lines of the log; no terminal, and an interval that a test can wait for."""
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", INTERVAL_S)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO, "pipeline")
    return lambda: [record.getMessage() for record in caplog.records]


def wait_for(found, timeout_s=30.0):
    limit_s = time.monotonic() + timeout_s
    while not found() and time.monotonic() < limit_s:
        time.sleep(0.01)
    assert found()


def test_long_work_says_how_far_it_is(lines):
    with logs.progress_bar(total=8, unit="track", description="encode") as advance:
        advance()
        advance("loss 1.5")
        wait_for(lines)
    assert re.fullmatch(
        r"encode: 2 of 8 tracks \(25 %\), \d\d:\d\d elapsed, about \d\d:\d\d left, loss 1\.5",
        lines()[0],
    )


def test_a_single_unit_that_takes_long_says_so_too(lines):
    """One recording of two hours: nothing is done yet, and somebody waits."""
    for _ in logs.progress(range(1), total=1, unit="track", description="encode"):
        wait_for(lines)
    assert re.fullmatch(
        r"encode: 0 of 1 tracks \(0 %\), \d\d:\d\d elapsed, time left unknown", lines()[0]
    )


def test_work_that_went_on_after_a_resume_counts_its_own_time_only(lines):
    with logs.progress_bar(total=1000, unit="update", description="train", done=998) as advance:
        wait_for(lines)
        advance()
        wait_for(lambda: any(line.startswith("train: 999 of 1000") for line in lines()))
    assert "time left unknown" in lines()[0]
    assert re.search(r"about 00:0\d left", lines()[-1])


def test_short_work_says_nothing(lines, monkeypatch):
    monkeypatch.setattr(logs, "LINE_INTERVAL_S", 30.0)
    assert list(logs.progress(range(500), total=500, unit="file", description="ingest"))
    assert lines() == []


def test_many_units_are_no_more_lines_than_the_interval_allows(lines):
    started_s = time.monotonic()
    for _ in logs.progress(range(300), total=300, unit="file", description="ingest"):
        time.sleep(0.001)
    assert len(lines()) <= (time.monotonic() - started_s) / INTERVAL_S


def test_on_a_terminal_the_bar_is_enough(lines, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in logs.progress(range(1), total=1, unit="track", description="encode"):
        time.sleep(3 * INTERVAL_S)
    assert lines() == []


def test_nothing_is_said_once_the_work_is_over_even_by_an_error(lines):
    with pytest.raises(ValueError), logs.progress_bar(total=2, unit="x", description="y"):  # noqa: PT011
        raise ValueError
    assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []
    time.sleep(2 * INTERVAL_S)
    assert lines() == []
