"""`melodac run`: one `dvc repro` or `dvc exp run`, shown as a flow run whose graph is the DAG.

DVC runs as one child and its lines are read along. A stage that runs adds its own node (the bridge
does), a cached one is added here. Without a server this is plain DVC; the exit code always is its.
"""

import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import bridge, preflight
from pipeline.child import Ended, follow
from pipeline.dag import stage_parents
from pipeline.dvc_lines import LineSplitter, StageEvent, parse_line
from pipeline.prefect_api import ENDED, PrefectCallError, PrefectServer, task_run_id_of
from pipeline.watcher import Ending, Watcher

EXPERIMENT_OPTIONS = ("-S", "--set-param", "-n", "--name", "--queue", "--run-all", "--temp")
REASONS = {
    "unchanged": "inputs unchanged since dvc.lock",
    "restored": "restored from the DVC run cache",
}

log = logging.getLogger("pipeline")


def run_dvc(arguments: Sequence[str]) -> int:
    """Check the parameters, run DVC with these arguments, show it; returns DVC's exit code."""
    preflight.check(arguments)
    words = ["exp", "run"] if _is_experiment(arguments) else ["repro"]
    title = shlex.join(["dvc", *words, *arguments])
    command = [sys.executable, "-m", "dvc", *words, *arguments]
    environment = _environment()
    environment.pop(bridge.PARENT, None)
    picture = _open_picture(title)
    if picture is None:
        return follow(command, environment=environment, on_output=lambda _: None).code
    environment[bridge.PARENT] = picture.run_id
    ended = follow(command, environment=environment, on_output=picture.read)
    picture.close(ended)
    return ended.code


class Picture:
    """The flow run of one DVC command and its graph."""

    def __init__(
        self, server: PrefectServer, run_id: str, parents: Mapping[str, Sequence[str]]
    ) -> None:
        """Args: the server, the flow run made for the command, the edges of dvc.yaml."""
        self.run_id = run_id
        self._server = server
        self._parents = parents
        self._splitter = LineSplitter()
        self._seen: dict[str, tuple[str, float]] = {}
        self._watcher = Watcher(server, lambda: run_id)
        self._watcher.start()

    def read(self, chunk: bytes) -> None:
        """Read along what DVC prints."""
        for line in self._splitter.feed(chunk):
            if line:
                self._watcher.add_line(line, name="dvc")
            event = parse_line(line)
            if event:
                self._see(event)

    def close(self, ended: Ended) -> None:
        """Show how the command ended."""
        if ended.signals:
            state, message = "Crashed", f"stopped by signal {ended.signals[0]}"
        elif ended.code:
            state, message = "Failed", f"dvc ended with exit code {ended.code}"
        else:
            state, message = "Completed", self._summary()
        last = next(reversed(self._seen), "")
        complete = [lambda s=s: self._complete(s, s == last, state) for s in self._ran()]
        self._watcher.finish(Ending(state, message, tuple(self._rows()), tuple(complete)))

    def _see(self, event: StageEvent) -> None:
        self._seen[event.stage] = (event.what, time.monotonic())
        if event.what != "runs":
            self._watcher.add_event(lambda: self._add(event.stage, "Cached", REASONS[event.what]))

    def _add(self, stage: str, state: str, message: str) -> None:
        name = f"{stage} (cached)" if state == "Cached" else stage
        after = self._server.list_inputs(self.run_id, self._parents.get(stage, ()))
        node = task_run_id_of(self.run_id, stage)
        self._server.create_task_run(node, flow_run_id=self.run_id, name=name, after=after)
        self._server.set_task_state(node, "Running")
        self._server.set_task_state(node, state, message)

    def _complete(self, stage: str, is_last: bool, state: str) -> None:
        """Add the node of a stage that could not show itself, end one that was killed."""
        node = task_run_id_of(self.run_id, stage)
        shown = self._server.read_task_state(node)
        if shown is None:
            self._add(stage, state if is_last else "Completed", "seen in DVC's output only")
        elif shown not in ENDED:
            self._server.crash_unended([node])

    def _ran(self) -> list[str]:
        return [stage for stage, (what, _) in self._seen.items() if what == "runs"]

    def _summary(self) -> str:
        ran = len(self._ran())
        return f"{ran} stages ran, {len(self._seen) - ran} cached"

    def _rows(self) -> list[Mapping[str, object]]:
        begins_s = [begin_s for _, begin_s in self._seen.values()] + [time.monotonic()]
        return [
            {"stage": stage, "what": what, "seconds": round(begins_s[i + 1] - begins_s[i], 1)}
            for i, (stage, (what, _)) in enumerate(self._seen.items())
        ]


def _open_picture(title: str) -> Picture | None:
    server = bridge.find_server()
    if server is None:
        return None
    try:
        parents = stage_parents()
        run_id = server.create_flow_run("experiment", name=title, tags=("dvc", "melodac run"))
    except (PrefectCallError, ValueError, KeyError) as error:
        log.warning("Prefect: %s; DVC runs unwatched", error)
        return None
    return Picture(server, run_id, parents)


def _is_experiment(arguments: Sequence[str]) -> bool:
    return any(
        argument.partition("=")[0] in EXPERIMENT_OPTIONS or argument.startswith("-S")
        for argument in arguments
    )


def _environment() -> dict[str, str]:
    """Ours, with the Python of this environment first: `cmd: python ...` must find it."""
    here = str(Path(sys.executable).parent)
    known = os.environ | {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
    return known | {"PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)])}
