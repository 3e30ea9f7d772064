"""The `melodac` command as a process, and a real Prefect server on a free port through it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from pipeline.watch.prefect_api import is_healthy

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 120
# a shell that runs the tests in the background makes them ignore SIGINT
COMMAND = (
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from pipeline.commands.cli import main; main()",
)


def environment(**more):
    """Ours without Prefect's and the bridge's variables, with the code under test."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MELODAC", "DVC"))}
    ours |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
    return ours | more


def melodac(*arguments, cwd=None, **variables):
    """Run the command to its end, unwatched unless told otherwise."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**{"MELODAC_PREFECT": "off", "COLUMNS": "200"} | variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


class RealPrefect:
    def __init__(self, process, address):
        self.process = process
        self.address = address
        self.url = f"{address}/api"

    def ask(self, path, body=None):
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def flow_run(self, name_start):
        wanted = {"flow_runs": {"name": {"like_": name_start}}, "sort": "START_TIME_DESC"}
        return self.ask("/flow_runs/filter", wanted)[0]

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def real_prefect(checkout):
    """Starts `melodac ui` in a folder that has dvc.yaml and params.yaml."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = checkout / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, "ui", "--port", str(port)],
            cwd=checkout,
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = RealPrefect(process, f"http://127.0.0.1:{port}")
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not is_healthy(server.url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.5)
        yield server
    finally:
        if process.poll() is None:
            server.kill()
