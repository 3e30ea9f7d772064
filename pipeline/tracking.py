"""Curves to Weights & Biases: offline unless asked, and a run never depends on it.

Whatever W&B throws becomes one warning and tracking ends there; the training goes on. Nothing that
could hold a secret is recorded: no arguments, no environment, no git address, no console.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.paths import project_root

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes numbers while a run goes on."""

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Record the numbers of one update."""


class _Recorder:
    def __init__(self, run: Any) -> None:  # noqa: ANN401  W&B's run, or None
        self._run = run

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Record the numbers; on the first failure warn and record no more."""
        if self._run is None:
            return
        try:
            self._run.log(dict(metrics), step=update)
        except _failures() as error:
            log.warning("W&B stopped recording at update %d: %s", update, error)
            self._run = None


@contextmanager
def open_tracker(mode: str, *, group: str, config: Mapping[str, Any]) -> Iterator[Tracker]:
    """A tracker for one run.

    Args:
        mode: off, offline or online.
        group: What runs to be compared share, e.g. the stage.
        config: The experiment's parameters, shown beside its curves.
    """
    if mode == "off":
        yield _Recorder(None)
        return
    run = _start(mode, group, config)
    try:
        yield _Recorder(run)
    finally:
        if run is not None:
            _finish(run)


def _start(mode: str, group: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    folder = project_root() / ".scratch" / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        os.environ.setdefault(variable, str(folder.resolve()))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    settings = wandb.Settings(
        silent=True,
        disable_git=True,
        save_code=False,
        console="off",
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    try:
        return wandb.init(
            project="melodac",
            name=os.environ.get("DVC_EXP_NAME"),
            group=group,
            config=dict(config),
            dir=str(folder),
            mode="online" if mode == "online" else "offline",
            settings=settings,
        )
    except _failures() as error:
        log.warning("W&B could not start, the run goes on without it: %s", error)
        return None


def _finish(run: Any) -> None:  # noqa: ANN401
    try:
        run.finish()
    except _failures() as error:
        log.warning("W&B could not finish: %s", error)


def _failures() -> tuple[type[Exception], ...]:
    import wandb

    return (wandb.Error, OSError, RuntimeError, ValueError)
