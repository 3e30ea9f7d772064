"""A minimal client of the Prefect server's HTTP API, and `melodac ui`, which starts a server.

Plain HTTP on purpose: importing Prefect costs every stage two seconds and 80 MiB, changes logging,
and leaves threads that outlive a dead server by minutes. Servers that ask for a login are not
supported. The server of this checkout runs in the foreground and starts no work; its database lies
in `.prefect` in the checkout, and telemetry is off.
"""

import http.client
import json
import os
import socket
import sys
import threading
import tomllib
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from melodac.errors import ConfigError
from melodac.files import lock_alone
from pipeline.paths import project_root

DEFAULT_URL = "http://127.0.0.1:4200/api"
HEALTH_TIMEOUT_S = 0.75
CALL_TIMEOUT_S = 5.0
HEALTHY = b"true"  # other programs use port 4200 too, and answer 200 to anything
MAX_ANSWER_BYTES = 16 * 1024 * 1024
STATE_TYPES = {"Running": "RUNNING", "Completed": "COMPLETED", "Cached": "COMPLETED"} | {
    "Failed": "FAILED",
    "Crashed": "CRASHED",
}
ENDED = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})

# bypasses any proxy of the environment, which must not see, delay or answer calls to this machine
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrefectCallError(Exception):
    """Failed or unexpected answer of Prefect; logged, never fatal."""


def find_url() -> str:
    """Return the server's address: PREFECT_API_URL, the checkout's Prefect profile, the default."""
    return (os.environ.get("PREFECT_API_URL") or _url_of_profile() or DEFAULT_URL).rstrip("/")


def is_healthy(url: str, *, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    """Check that a Prefect server answers in time.

    The socket's own timeout restarts with every byte and does not cover name look-up, so the
    request runs in a daemon thread that is abandoned when the time is over.
    """
    answers: list[bytes] = []
    asking = threading.Thread(target=_ask_health, args=(url, timeout_s, answers), daemon=True)
    asking.start()
    asking.join(timeout_s)
    return answers == [HEALTHY]


def task_run_id_of(parent_id: str, stage: str) -> str:
    """Derive the task run id of a stage in a parent flow run.

    A name-based UUID: the stage's process and `melodac run` compute the same id on their own.
    """
    return str(uuid.uuid5(uuid.UUID(parent_id), stage))


class PrefectServer:
    """Client of a Prefect server that was found healthy.

    Every method makes one or two short calls and raises `PrefectCallError` if one fails.
    """

    def __init__(self, url: str) -> None:
        """Set the address, which ends in `/api`."""
        self._url = url

    def create_flow_run(
        self, flow: str, *, name: str, tags: Sequence[str], parent_task_run_id: str | None = None
    ) -> str:
        """Register the flow if it is new, and a run of it; returns the run's id."""
        flow_id = self._create("/flows/", {"name": flow})
        body = {"flow_id": flow_id, "name": name, "tags": list(tags)}
        body |= {"state": _state("Pending", None), "parent_task_run_id": parent_task_run_id}
        return self._create("/flow_runs/", body)

    def create_task_run(
        self, task_run_id: str, *, flow_run_id: str, name: str, after: Sequence[Mapping[str, str]]
    ) -> None:
        """Add a node to the graph of a flow run, with an edge from each input in `after`."""
        body = {"id": task_run_id, "flow_run_id": flow_run_id, "name": name}
        body |= {"task_key": name, "dynamic_key": "0", "task_inputs": {"wait_for": list(after)}}
        self._send("POST", "/task_runs/", body)

    def list_inputs(self, parent_id: str, stages: Sequence[str]) -> list[Mapping[str, str]]:
        """List edges from earlier stages of a parent run, whether they were run or cached.

        The graph refers to a stage that ran by its flow run, to a cached one by its task run.
        """
        ids = [task_run_id_of(parent_id, stage) for stage in stages]
        children = self._list_children(ids)
        ran = [{"input_type": "flow_run", "id": child["id"]} for child in children]
        return [*({"input_type": "task_run", "id": task_id} for task_id in ids), *ran]

    def set_flow_state(self, flow_run_id: str, name: str, message: str | None = None) -> None:
        """Move a flow run to `Running`, `Completed`, `Failed` or `Crashed`."""
        self._set_state("flow_runs", flow_run_id, name, message)

    def set_task_state(self, task_run_id: str, name: str, message: str | None = None) -> None:
        """Move a task run to one of the same states, or to `Cached`."""
        self._set_state("task_runs", task_run_id, name, message)

    def read_task_state(self, task_run_id: str) -> str | None:
        """Return the state's type, e.g. `COMPLETED`; None if there is no such task run."""
        wanted = {"task_runs": {"id": {"any_": [task_run_id]}}}
        found = self._send("POST", "/task_runs/filter", wanted)
        return found[0]["state_type"] if found else None

    def crash_unended(self, task_run_ids: Sequence[str]) -> None:
        """Mark as crashed the child flow runs whose process died before it reported an end."""
        for child in self._list_children(task_run_ids):
            if child["state_type"] not in ENDED:
                self.set_flow_state(child["id"], "Crashed", "the stage's process was killed")

    def add_logs(self, flow_run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append log lines: name, level, message, timestamp."""
        self._send("POST", "/logs/", [{**line, "flow_run_id": flow_run_id} for line in lines])

    def create_artifact(self, flow_run_id: str, kind: str, *, about: str, data: object) -> str:
        """Attach a `progress` (per cent), `table` (JSON rows) or `markdown`; return its id."""
        body = {"type": kind, "description": about, "data": data, "flow_run_id": flow_run_id}
        return self._create("/artifacts/", body)

    def update_artifact(self, artifact_id: str, data: object) -> None:
        """Replace the data of an artifact."""
        self._send("PATCH", f"/artifacts/{artifact_id}", {"data": data})

    def _create(self, path: str, body: object) -> str:
        answer = self._send("POST", path, body)
        if not isinstance(answer, dict) or "id" not in answer:
            raise PrefectCallError(f"{path}: answered without an id")
        return str(answer["id"])

    def _list_children(self, task_run_ids: Sequence[str]) -> list[Any]:
        if not task_run_ids:
            return []
        wanted = {"flow_runs": {"parent_task_run_id": {"any_": list(task_run_ids)}}}
        return self._send("POST", "/flow_runs/filter", wanted)

    def _set_state(self, kind: str, run_id: str, name: str, message: str | None) -> None:
        # forced: the server's orchestration rules could otherwise refuse a change of state
        body = {"state": _state(name, message), "force": True}
        self._send("POST", f"/{kind}/{run_id}/set_state", body)

    def _send(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401  JSON is anything
        request = urllib.request.Request(
            self._url + path,
            data=json.dumps(body, default=str).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with _opener.open(request, timeout=CALL_TIMEOUT_S) as answer:
                text = answer.read(MAX_ANSWER_BYTES)
            return json.loads(text) if text else None
        except HTTPError as error:
            reason = error.read(300).decode("utf-8", errors="replace")
            raise PrefectCallError(f"{path}: {error.code} {reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PrefectCallError(f"{path}: {error}") from error


def _state(name: str, message: str | None) -> dict[str, Any]:
    return {"type": STATE_TYPES.get(name, name.upper()), "name": name, "message": message}


def _ask_health(url: str, timeout_s: float, answers: list[bytes]) -> None:
    try:
        if urlsplit(url).scheme not in {"http", "https"}:
            return
        with _opener.open(f"{url}/health", timeout=timeout_s) as answer:
            answers.append(answer.read(len(HEALTHY) + 1))
    except (OSError, http.client.HTTPException, ValueError):
        return


def _url_of_profile() -> str | None:
    home = Path(os.environ.get("PREFECT_HOME") or ".prefect").expanduser()
    profiles = project_root() / home / "profiles.toml"
    try:
        known = tomllib.loads(profiles.read_text(encoding="utf-8"))
        return known["profiles"][known["active"]]["PREFECT_API_URL"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


HOST = "127.0.0.1"
LOCK = "melodac-ui.lock"


def start_server(checkout: Path, port: int) -> None:
    """Replace this process by the server; returns only if one already answers on this port.

    Raises:
        ConfigError: If another program holds the port, or a server of this checkout is running.
    """
    address = f"http://{HOST}:{port}"
    api = f"{address}/api"
    if is_healthy(api):
        sys.stdout.write(f"A Prefect server already answers: {address}\n")
        return
    if not _is_free(port):
        raise ConfigError(
            f"--port {port}: another program listens there, stop it or take a free one, "
            f"e.g. `melodac ui --port {port + 1}`"
        )
    _hold_lock(checkout / ".prefect", address)
    sys.stdout.write(f"Prefect: {address} (in some seconds; Ctrl-C stops it)\n")
    if api != DEFAULT_URL:
        sys.stdout.write(f"Stages find it with: export PREFECT_API_URL={api}\n")
    sys.stdout.flush()
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", HOST, "--port", str(port)]
    # not a child process: signals then reach the server itself, and none is left behind
    os.execve(sys.executable, command, _environment(checkout, api))


def _hold_lock(home: Path, address: str) -> None:
    """Lock the database for one server, until the process that becomes the server ends.

    Raises:
        ConfigError: If another server of this checkout runs or is about to.
    """
    home.mkdir(exist_ok=True)
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    known = lock_alone(lock, address)
    if known is not None:
        os.close(lock)
        raise ConfigError(
            f"a server of this checkout runs or is about to: {known}, use it or stop it first"
        )
    os.set_inheritable(lock, True)


def _environment(checkout: Path, api: str) -> dict[str, str]:
    return os.environ | {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(checkout / ".prefect"),
        "PREFECT_API_URL": api,
        # for the web pages, which would otherwise ask the default port
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # a port whose last connections are still in TIME_WAIT counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
