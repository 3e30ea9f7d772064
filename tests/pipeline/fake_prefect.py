"""A stand-in for a Prefect server: remembers what it was told, and misbehaves on request."""

import json
import socket
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

SILENCE_S = 8.0


class FakePrefect(ThreadingHTTPServer):
    """`health` is what GET /health answers; `mood` is ok, error, nonsense or silent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.health = (200, b"true")
        self.mood = "ok"
        self.calls = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/api"

    def told(self, path_end):
        """The bodies of all calls whose path ends so."""
        return [body for path, body in self.calls if path.endswith(path_end)]

    def flow_states(self):
        return [
            body["state"]["name"]
            for path, body in self.calls
            if "/flow_runs/" in path and path.endswith("/set_state")
        ]

    def handle_error(self, request, client_address):
        """A client that went away is no matter here."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(*self.server.health)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body))
        if self.server.mood == "silent":
            sleep(SILENCE_S)
        if self.server.mood == "error":
            return self._answer(503, b'{"detail": "database is locked"}')
        if self.server.mood == "nonsense":
            return self._answer(200, b"<html>welcome</html>")
        answer = [] if self.path.endswith("/filter") else {"id": str(uuid.uuid4())}
        return self._answer(200, json.dumps(answer).encode())

    do_PATCH = do_POST

    def _answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Keep test output clean."""


@contextmanager
def fake_prefect():
    server = FakePrefect()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent_listener():
    """Accepts connections, never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api"


def refused_url():
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/api"
