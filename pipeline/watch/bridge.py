"""Bridge from a running stage to Prefect; the work runs exactly once, with or without a server.

The work runs in plain Python in the main thread, outside Prefect's engine: signals, stack traces,
results and exit codes are those of the work. `MELODAC_PREFECT` is `auto` (report if a server
answers), `on` (the same, and warn if none does) or `off`.

A background thread talks to the server, so that the work never waits for Prefect. The work queues
log lines, progress and events; the thread sends them every second. What cannot be sent is dropped
with one warning. The thread is a daemon and `finish` waits for it a bounded time: a server that
dies delays the exit by at most `DRAIN_S`, and no `os._exit` is needed because Prefect itself is
never imported into this process.
"""

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from melodac.errors import ConfigError
from pipeline import logs
from pipeline.dag import stage_parents
from pipeline.processes.signals import StoppedError
from pipeline.records import Outcome
from pipeline.watch.prefect_api import (
    PrefectCallError,
    PrefectServer,
    find_url,
    is_healthy,
    task_run_id_of,
)

MODE = "MELODAC_PREFECT"
MODES = ("auto", "on", "off")
PARENT = "MELODAC_PARENT_FLOW_RUN"
"""Environment variable with which `melodac run` gives its stages the id of its flow run."""
INTERVAL_S = 1.0
"""Seconds between two batches of calls; an event is sent at once."""
DRAIN_S = 3.0
"""Longest wait at the end for what is still to be sent."""
MAX_LINES_WAITING = 2000
MAX_LINES_A_CALL = 200
MAX_LINE_CHARACTERS = 10_000

log = logging.getLogger("pipeline")

Step = Callable[[], None]


@dataclass(frozen=True)
class Ending:
    """Final state of a run, with its message and result table."""

    state: str
    message: str | None = None
    table: tuple[Mapping[str, Any], ...] = ()
    before: tuple[Step, ...] = ()
    """Calls to make before the final state is set."""


class Watcher:
    """Background reporter of one flow run, from `start` to `finish`."""

    def __init__(self, server: PrefectServer, open_run: Callable[[], str]) -> None:
        """Prepare the reporter; nothing is sent before `start`.

        Args:
            server: A server that was found healthy.
            open_run: Creates the flow run and returns its id; called in the background.
        """
        self._server = server
        self._open_run = open_run
        self._run_id = ""
        self._lines: deque[Mapping[str, Any]] = deque(maxlen=MAX_LINES_WAITING)
        self._events: deque[Step] = deque()
        self._progress: dict[str, float] = {}
        self._shown: dict[str, tuple[str, float]] = {}
        self._ending: Ending | None = None
        self._finished = threading.Event()
        self._wake = threading.Event()
        self._has_warned = False
        self._thread = threading.Thread(target=self._watch, name="prefect-watcher", daemon=True)

    def start(self) -> None:
        """Start the thread that creates the flow run and reports the work."""
        self._thread.start()

    def add_line(self, message: str, *, level: int = logging.INFO, name: str = "pipeline") -> None:
        """Queue one log line; the oldest are dropped if more than `MAX_LINES_WAITING` wait."""
        now = datetime.now(UTC).isoformat()
        # a file name may hold bytes that are not UTF-8; the server would refuse the whole batch
        message = message[:MAX_LINE_CHARACTERS].encode("utf-8", "replace").decode()
        self._lines.append({"message": message, "level": level, "name": name, "timestamp": now})

    def add_event(self, step: Step) -> None:
        """Queue a call to the server; calls are made in order."""
        self._events.append(step)
        self._wake.set()

    def set_progress(self, description: str, done: int, total: int) -> None:
        """Set the progress of the work; only the latest value is sent."""
        self._progress[description] = 100.0 * done / max(total, 1)

    def finish(self, ending: Ending) -> None:
        """Report the final state; waits at most `DRAIN_S`."""
        self._ending = ending
        self._finished.set()
        self._wake.set()
        self._thread.join(DRAIN_S)
        if self._thread.is_alive():
            self._warn(f"no answer within {DRAIN_S:.0f} s, the run may be shown as running")

    def _watch(self) -> None:
        if not self._try(self._open):
            return
        while not self._finished.is_set():
            self._send_latest()
            self._wake.wait(INTERVAL_S)
            self._wake.clear()
        self._send_latest()
        self._send_ending()

    def _open(self) -> None:
        self._run_id = self._open_run()
        self._server.set_flow_state(self._run_id, "Running")

    def _send_latest(self) -> None:
        while self._events:
            self._try(self._events.popleft())
        while self._lines:
            count = min(len(self._lines), MAX_LINES_A_CALL)
            batch = [self._lines.popleft() for _ in range(count)]
            if not self._try(lambda lines=batch: self._server.add_logs(self._run_id, lines)):
                return
        for description, percent in list(self._progress.items()):
            self._try(lambda d=description, p=percent: self._show_progress(d, p))

    def _show_progress(self, description: str, percent: float) -> None:
        artifact_id, shown = self._shown.get(description, ("", -1.0))
        if not artifact_id:
            artifact_id = self._server.create_artifact(
                self._run_id, "progress", about=description, data=percent
            )
        elif shown != percent:
            self._server.update_artifact(artifact_id, percent)
        self._shown[description] = (artifact_id, percent)

    def _send_ending(self) -> None:
        ending = self._ending
        if ending is None:
            return
        steps = list(ending.before)
        if ending.table:
            steps.append(lambda: self._add_table(ending.table))
        # the state comes last: a run shown as finished has its table and its nodes
        steps.append(
            lambda: self._server.set_flow_state(self._run_id, ending.state, ending.message)
        )
        for step in steps:
            self._try(step)

    def _add_table(self, rows: Iterable[Mapping[str, Any]]) -> None:
        data = json.dumps(list(rows), default=str)
        self._server.create_artifact(self._run_id, "table", about="What came out", data=data)

    def _try(self, step: Step) -> bool:
        try:
            step()
        except PrefectCallError as error:
            self._warn(str(error))
            return False
        return True

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("Prefect: %s; the work goes on, only the picture is incomplete", reason)


class LogForwarder(logging.Handler):
    """Logging handler that passes every log line of the process to a watcher."""

    def __init__(self, watcher: Watcher) -> None:
        """Forward to `watcher` what is logged at INFO or above."""
        super().__init__(logging.INFO)
        self._watcher = watcher

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record with the watcher, without any call to the server."""
        self._watcher.add_line(self.format(record), level=record.levelno, name=record.name)


def run_stage(stage: str, work: Callable[[], Outcome]) -> Outcome:
    """Run the work of one stage once, shown in Prefect if a server answers.

    Errors of the work are raised unchanged.
    """
    server = find_server()
    if server is None:
        return work()
    watcher = Watcher(server, lambda: _open_run(server, stage))
    forwarder = LogForwarder(watcher)
    logging.getLogger().addHandler(forwarder)
    logs.add_progress_listener(watcher.set_progress)
    watcher.start()
    try:
        outcome = work()
    except BaseException as error:
        # KeyboardInterrupt and SystemExit are no `Exception`: stopped, not failed
        is_stopped = isinstance(error, StoppedError) or not isinstance(error, Exception)
        message = f"{type(error).__name__}: {error}"
        watcher.finish(Ending("Crashed" if is_stopped else "Failed", message))
        raise
    else:
        watcher.finish(Ending("Completed", _summary(outcome), tuple(_rows(outcome))))
        return outcome
    finally:
        logging.getLogger().removeHandler(forwarder)


def find_server() -> PrefectServer | None:
    """Return the Prefect server to report to, or None if it is off or does not answer in 0.75 s.

    Raises:
        ConfigError: If MELODAC_PREFECT is not one of the three modes.
    """
    mode = os.environ.get(MODE) or "auto"
    if mode not in MODES:
        raise ConfigError(f"{MODE} = {mode!r}: allowed are {', '.join(MODES)}")
    if mode == "off":
        return None
    url = find_url()
    if is_healthy(url):
        return PrefectServer(url)
    if mode == "on":
        log.warning("Prefect: no server at %s, start one with `melodac ui`; the work runs", url)
    return None


def _open_run(server: PrefectServer, stage: str) -> str:
    experiment = os.environ.get("DVC_EXP_NAME") or "workspace"
    return server.create_flow_run(
        stage,
        name=f"{stage} @ {experiment}",
        tags=("dvc", f"stage:{stage}", f"exp:{experiment}"),
        parent_task_run_id=_join_parent(server, stage),
    )


def _join_parent(server: PrefectServer, stage: str) -> str | None:
    """Add this stage to the graph of `melodac run`, if that started it; return the node's id."""
    parent_id = os.environ.get(PARENT)
    if not parent_id:
        return None
    try:
        upstream = stage_parents()[stage]
        after = server.list_inputs(parent_id, upstream)
    except (ValueError, KeyError) as error:  # dvc.yaml lacks this stage, or the id is no UUID
        raise PrefectCallError(f"{stage} has no place in the graph: {error}") from error
    task_run_id = task_run_id_of(parent_id, stage)
    server.create_task_run(task_run_id, flow_run_id=parent_id, name=stage, after=after)
    return task_run_id


def _summary(outcome: Outcome) -> str:
    return ", ".join(f"{count} {name}" for name, count in outcome.counts.items())


def _rows(outcome: Outcome) -> Iterator[Mapping[str, Any]]:
    for kind, values in (("count", outcome.counts), ("skipped", outcome.skipped)):
        yield from ({"kind": kind, "name": name, "value": values[name]} for name in values)
    yield from ({"kind": "metric", "name": k, "value": v} for k, v in _flatten(outcome.metrics))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
