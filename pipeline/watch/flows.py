"""`melodac run`: one `dvc repro` or `dvc exp run`, shown as a flow run whose graph is the DAG.

Wrong parameters and a missing source folder are reported before DVC starts; each stage checks its
parameters again.

DVC runs as one child process and its output is parsed. A stage that runs adds its own node to the
graph (`bridge`), a cached one is added here. Without a server this is plain DVC; the exit code is
always DVC's. DVC has no hooks, so its three log lines are the only source of events. Should they
change, the graph loses its nodes and nothing else: success is read from DVC's exit code.

On a terminal the child gets a pseudo-terminal, so bars and colours stay; else a pipe. Signals are
passed on to the child's whole process group: DVC alone would leave its stage running.
"""

import logging
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from melodac.errors import ConfigError, UnreadableAudioError
from pipeline import paths
from pipeline.dag import stage_parents
from pipeline.params import Params, load_params, read_yaml
from pipeline.source.listing import find_folder, find_unhashable
from pipeline.watch import bridge
from pipeline.watch.bridge import Ending, Watcher
from pipeline.watch.prefect_api import ENDED, PrefectCallError, PrefectServer, task_run_id_of


def check_request(arguments: Sequence[str]) -> None:
    """Check params.yaml as the `-S` options in `arguments` would change it.

    A wrong value or option raises `ConfigError` with one line for each; a source that is no folder,
    or one that DVC cannot hash, raises `UnreadableAudioError`.
    """
    for overrides in _expand_sweeps(list(_overrides(arguments))):
        params = _load_changed(overrides)
        _check_source(params.ingest.source)


def _check_source(given: str) -> None:
    source = paths.resolve_source(given)
    if not source.exists() or not (folder := find_folder(source)).is_dir():
        raise UnreadableAudioError(
            f"ingest.source = {given!r}: no such folder ({source.absolute()}), "
            "give a folder of music, absolute or relative to the checkout"
        )
    if source == folder and (odd := find_unhashable(folder)):
        raise UnreadableAudioError(
            f"ingest.source = {given!r}: DVC cannot read some of its names ({odd}): run "
            f"`melodac scan {given}` and give the listing that it writes"
        )


def _overrides(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the overrides of params.yaml that the `-S` options give, in all their spellings."""
    rest = iter(arguments)
    for argument in rest:
        if argument in {"-S", "--set-param"}:
            given = next(rest, "")
        elif argument.startswith("--set-param="):
            given = argument.removeprefix("--set-param=")
        elif argument.startswith("-S"):
            given = argument.removeprefix("-S")
        else:
            continue
        file, colon, override = given.partition(":")
        if not colon or "=" in file:
            yield given
        elif file == paths.PARAMS.name:
            yield override


def _expand_sweeps(overrides: list[str]) -> list[list[str]]:
    """Return one list of overrides for each experiment of a sweep; `a=1,2` is two experiments."""
    if not overrides:
        return [[]]
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    name = paths.PARAMS.name
    try:
        return [list(sweep[name]) for sweep in get_hydra_sweeps({name: overrides})]
    except (DvcException, HydraException) as error:
        raise ConfigError(f"-S {' '.join(overrides)}: {_first_line(error)}") from error


def _load_changed(overrides: list[str]) -> Params:
    """Read params.yaml with overrides, which DVC's own code applies."""
    read_yaml(paths.PARAMS)  # for our message if it is not YAML, not DVC's
    if not overrides:
        return load_params(paths.PARAMS)
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / paths.PARAMS.name
        changed.write_bytes(paths.PARAMS.read_bytes())
        try:
            apply_overrides(changed, overrides)
            return load_params(changed)
        except DvcException as error:
            reason = _first_line(error.__cause__ or error)
            raise ConfigError(f"-S {' '.join(overrides)}: {reason}") from error
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{changed}: ", f"{paths.PARAMS}: ")) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 30.0
"""Time from the first signal until the child's process group is killed."""
POLL_S = 0.2
CHUNK_BYTES = 65_536


@dataclass
class Ended:
    """Exit status of the child."""

    code: int
    """Exit code as a shell reports it: 128 + n after signal n."""
    signals: list[int] = field(default_factory=list)
    """Signals that were passed on, in order."""


def follow(
    command: Sequence[str], *, environment: Mapping[str, str], on_output: Callable[[bytes], None]
) -> Ended:
    """Run a command to its end, showing its output as it comes.

    After a signal, the process group has `GRACE_S` to save its state and exit before it is killed.
    Only the main thread may call this: Python allows signal handlers to be set there alone.
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
            # a process group of its own, so that Ctrl-C reaches it once, from `_forwarding`
            start_new_session=True,
        )
        os.close(theirs)  # our copy would keep the output from ever ending
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
    """Copy the output until every process that holds it open, the last stage too, has ended."""
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
        # a daemon started by DVC may hold the output open indefinitely
        if chunk is None and not signals and child.poll() is not None:
            return


def _read(source: int) -> bytes:
    try:
        return os.read(source, CHUNK_BYTES)
    except OSError:  # Linux raises EIO once the other end of a pseudo-terminal is closed
        return b""


def _show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _copy_look(terminal: int) -> None:
    """Give a terminal the size of ours and no line-end translation, which ours does."""
    termios.tcsetwinsize(terminal, termios.tcgetwinsize(sys.stdout.fileno()))
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.OPOST  # index 1 holds the output flags
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


What = Literal["runs", "unchanged", "restored"]

# Colours, cursor movements and window titles.
_CONTROL = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_PATTERNS: tuple[tuple[What, re.Pattern[str]], ...] = (
    ("runs", re.compile(r"^Running stage '([^']+)':$")),
    ("unchanged", re.compile(r"^Stage '([^']+)' didn't change, skipping$")),
    ("restored", re.compile(r"^Stage '([^']+)' is cached - skipping run, checking out outputs$")),
)
MAX_LINE_BYTES = 65_536


class StageEvent(NamedTuple):
    """Start of a stage, or the reason why it is skipped."""

    stage: str
    what: What


def parse_line(line: str) -> StageEvent | None:
    """Return the stage event that a line of DVC's output announces, if any.

    >>> parse_line("Stage 'train' didn't change, skipping")
    StageEvent(stage='train', what='unchanged')
    """
    for what, pattern in _PATTERNS:
        found = pattern.match(line)
        if found:
            return StageEvent(found.group(1), what)
    return None


class LineSplitter:
    r"""Splitter of terminal output into clean lines.

    Of a line that is redrawn with `\r`, as progress bars do, only the last drawing is kept.
    """

    def __init__(self) -> None:
        """Start with an empty line."""
        self._pending = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the lines that this chunk completes, without control sequences."""
        *whole, self._pending = (self._pending + chunk).split(b"\n")
        self._pending = self._pending[-MAX_LINE_BYTES:]
        for line in whole:
            text = line.decode("utf-8", errors="replace").rstrip("\r")
            yield _CONTROL.sub("", text.rpartition("\r")[2]).rstrip()


EXPERIMENT_OPTIONS = ("-S", "--set-param", "-n", "--name", "--queue", "--run-all", "--temp")
REASONS = {
    "unchanged": "inputs unchanged since dvc.lock",
    "restored": "restored from the DVC run cache",
}

log = logging.getLogger("pipeline")


def run_dvc(arguments: Sequence[str]) -> int:
    """Check the parameters, run DVC with these arguments, report it; returns DVC's exit code."""
    check_request(arguments)
    words = ["exp", "run"] if _is_experiment(arguments) else ["repro"]
    title = shlex.join(["dvc", *words, *arguments])
    command = [sys.executable, "-m", "dvc", *words, *arguments]
    environment = _environment()
    environment.pop(bridge.PARENT, None)  # of an outer run, whose graph is not ours
    picture = _open_picture(title)
    if picture is None:
        return follow(command, environment=environment, on_output=lambda _: None).code
    environment[bridge.PARENT] = picture.run_id
    ended = follow(command, environment=environment, on_output=picture.read)
    picture.close(ended)
    return ended.code


class Picture:
    """Flow run of one DVC command, whose graph is the DAG."""

    def __init__(
        self, server: PrefectServer, run_id: str, parents: Mapping[str, Sequence[str]]
    ) -> None:
        """Start to report.

        Args:
            server: A server that was found healthy.
            run_id: The flow run that was created for the command.
            parents: Upstream stages of each stage, from dvc.yaml.
        """
        self.run_id = run_id
        self._server = server
        self._parents = parents
        self._splitter = LineSplitter()
        self._seen: dict[str, tuple[str, float]] = {}
        self._watcher = Watcher(server, lambda: run_id)
        self._watcher.start()

    def read(self, chunk: bytes) -> None:
        """Parse a chunk of DVC's output: log its lines, add the nodes of cached stages."""
        for line in self._splitter.feed(chunk):
            if line:
                self._watcher.add_line(line, name="dvc")
            event = parse_line(line)
            if event:
                self._see(event)

    def close(self, ended: Ended) -> None:
        """Report how the command ended."""
        if ended.signals:
            state, message = "Crashed", f"stopped by signal {ended.signals[0]}"
        elif ended.code:
            state, message = "Failed", f"dvc ended with exit code {ended.code}"
        else:
            state, message = "Completed", self._summary()
        # the last stage seen ended as the command did; those before it must have completed
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
        """Add the node of a stage that did not report itself; mark a killed one as crashed."""
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
        # DVC announces only the start of a stage: it lasts until the next one starts
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
        argument.partition("=")[0] in EXPERIMENT_OPTIONS or argument.startswith(("-S", "-n"))
        for argument in arguments
    )


def _environment() -> dict[str, str]:
    """Return our environment with this Python first on PATH: `cmd: python ...` must find it."""
    here = str(Path(sys.executable).parent)
    known = os.environ | {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1"}
    return known | {"PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)])}
