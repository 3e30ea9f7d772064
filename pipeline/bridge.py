"""Between a stage and whoever watches it: runs the work, exactly once, whatever the watcher does.

The work runs in plain Python in the main thread, beside Prefect and not inside it: signals, stack
traces, results and exit codes are those of the work. `MELODAC_PREFECT` is `auto` (watch if a server
answers), `on` (the same, and say so if none does) or `off`.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from melodac.errors import ConfigError
from pipeline import logs
from pipeline.dag import stage_parents
from pipeline.prefect_api import (
    PrefectCallError,
    PrefectServer,
    find_url,
    is_healthy,
    task_run_id_of,
)
from pipeline.records import Outcome
from pipeline.signals import StoppedError
from pipeline.watcher import Ending, LogForwarder, Watcher

MODE = "MELODAC_PREFECT"
MODES = ("auto", "on", "off")
PARENT = "MELODAC_PARENT_FLOW_RUN"

log = logging.getLogger("pipeline")


def run_stage(stage: str, work: Callable[[], Outcome]) -> Outcome:
    """Run the work of one stage once, shown in Prefect if a server answers.

    What the work raises is passed on as it is.
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
    """The Prefect server to show runs in, if one is wanted and answers within 0.75 s.

    Raises:
        ConfigError: If MELODAC_PREFECT is none of the three modes.
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
    """The node of this stage in the graph of `melodac run`, if that started us."""
    parent_id = os.environ.get(PARENT)
    if not parent_id:
        return None
    try:
        upstream = stage_parents()[stage]
        after = server.list_inputs(parent_id, upstream)
    except (ValueError, KeyError) as error:  # dvc.yaml without this stage, or an id that is none
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
