"""One command as a child whose output is passed through and read along, and that leaves no orphan.

On a terminal the child gets a terminal of its own, so bars and colours stay; else a pipe. Signals
meant for us go to the child's whole process group: DVC alone would leave its stage running.
"""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 30.0
POLL_S = 0.2
CHUNK_BYTES = 65_536


@dataclass
class Ended:
    """How the child ended."""

    code: int
    """As a shell would say it: 128 + n after signal n."""
    signals: list[int] = field(default_factory=list)
    """Signals that were passed on, in order."""


def follow(
    command: Sequence[str], *, environment: Mapping[str, str], on_output: Callable[[bytes], None]
) -> Ended:
    """Run a command to its end, showing its output as it comes.

    After a signal, what is left of the process group has `GRACE_S` to save and leave before it is
    killed. Only the main thread may call this: signals are handled there.
    """
    is_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    try:
        if is_terminal:
            _copy_look(theirs)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs if is_terminal else None,
            env=dict(environment),
            start_new_session=True,
        )
        os.close(theirs)
        with _forwarding(child.pid) as signals:
            _pass_output(ours, child, signals, on_output)
            code = child.wait()
            if signals:
                _signal_group(child.pid, signal.SIGKILL)
    finally:
        os.close(ours)
    return Ended(128 - code if code < 0 else code, signals)


def _pass_output(
    source: int, child: subprocess.Popen[bytes], signals: list[int], on_output: Callable
) -> None:
    """Until every holder of the child's output is gone, which is when the last stage is."""
    deadline_s = float("inf")
    while True:
        ready, _, _ = select.select([source], [], [], POLL_S)
        chunk = _read(source) if ready else None
        if chunk == b"":
            return
        if chunk:
            _show(chunk)
            on_output(chunk)
        if signals and deadline_s == float("inf"):
            deadline_s = time.monotonic() + GRACE_S
        if time.monotonic() > deadline_s:
            _signal_group(child.pid, signal.SIGKILL)
            return
        # a daemon that DVC started may hold the output open for as long as it likes
        if chunk is None and not signals and child.poll() is not None:
            return


def _read(source: int) -> bytes:
    try:
        return os.read(source, CHUNK_BYTES)
    except OSError:  # how a terminal says that the other end is closed
        return b""


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _copy_look(terminal: int) -> None:
    """Give a terminal the size of ours, and no line-end translation: ours does that."""
    termios.tcsetwinsize(terminal, termios.tcgetwinsize(sys.stdout.fileno()))
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


@contextmanager
def _forwarding(group: int) -> Iterator[list[int]]:
    seen: list[int] = []

    def forward(signum: int, _frame: object) -> None:
        seen.append(signum)
        _signal_group(group, signum)

    before = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        yield seen
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _signal_group(group: int, signum: int) -> None:
    try:
        os.killpg(group, signum)
    except ProcessLookupError:
        return
