"""`melodac ui`: the Prefect server of this checkout, in the foreground.

It only watches. Its database lies in `.prefect` in the checkout, and nothing calls home.
"""

import fcntl
import os
import socket
import sys
from pathlib import Path

from melodac.errors import ConfigError
from pipeline.prefect_api import DEFAULT_URL, is_healthy

HOST = "127.0.0.1"
LOCK = "melodac-ui.lock"


def start_server(checkout: Path, port: int) -> None:
    """Become the server; returns only if one already answers on this port.

    Raises:
        ConfigError: If another program holds the port, or a server of this checkout is up.
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
    # not a child: signals then reach the server itself, and none is left behind
    os.execve(sys.executable, command, _environment(checkout, api))


def _hold_lock(home: Path, address: str) -> None:
    """One server a database; the lock is kept until the process that we become ends.

    Raises:
        ConfigError: If another server of this checkout runs or is about to.
    """
    home.mkdir(exist_ok=True)
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        known = os.read(lock, 100).decode()
        os.close(lock)
        raise ConfigError(
            f"a server of this checkout runs or is about to: {known}, use it or stop it first"
        ) from error
    os.truncate(lock, 0)
    os.write(lock, address.encode())
    os.set_inheritable(lock, True)


def _environment(checkout: Path, api: str) -> dict[str, str]:
    return os.environ | {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(checkout / ".prefect"),
        "PREFECT_API_URL": api,
        # the pages ask this address; by default they would ask the default port
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
