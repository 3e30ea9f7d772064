"""Tracking of curves, events and demos in Weights & Biases: offline unless asked, never fatal.

The first error of W&B becomes one warning and ends tracking; the work goes on. Nothing that could
hold a secret or name a machine is recorded: no arguments, environment, git address, console, host,
user or path of the music.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32

from pipeline.params import Params, hash_params
from pipeline.paths import scratch

log = logging.getLogger(__name__)

# the defaults of W&B lie in the user's home
_FOLDER_VARIABLES = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
_QUIET_S = 300
"""Seconds in which an alert of the same name is not repeated."""


class Tracker(Protocol):
    """Receiver of the metrics, events and clips of a run in progress; no call raises."""

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        """Record the metrics of one update; values that are not numbers are left out."""

    def log_event(self, name: str, reason: str, update: int) -> None:
        """Count an event and send an alert with its reason."""

    def log_audio(
        self, name: str, samples: Float32[np.ndarray, "C N"], sample_rate_hz: int, caption: str
    ) -> None:
        """Record an audio clip under a name."""


class _Recorder:
    def __init__(self, run: Any) -> None:  # noqa: ANN401  W&B's run, or None
        self._run = run
        self._events = Counter[str]()

    def log(self, metrics: Mapping[str, Any], update: int) -> None:
        numbers = {name: _as_number(value) for name, value in metrics.items()}
        known = {name: value for name, value in numbers.items() if value is not None}
        self._try(f"update {update}", lambda run: run.log(known, step=update))

    def log_event(self, name: str, reason: str, update: int) -> None:
        self._events[name] += 1
        count, text = self._events[name], f"update {update}: {reason}"

        def record(run: Any) -> None:  # noqa: ANN401
            run.log({f"event/{name}": count}, step=update)
            run.alert(title=name, text=text, level="WARN", wait_duration=_QUIET_S)

        self._try(f"event {name!r}", record)

    def log_audio(
        self, name: str, samples: Float32[np.ndarray, "C N"], sample_rate_hz: int, caption: str
    ) -> None:
        def record(run: Any) -> None:  # noqa: ANN401
            from wandb import Audio

            # W&B wants samples by channels
            clip = Audio(samples.T, sample_rate=sample_rate_hz, caption=caption)
            run.log({f"audio/{name}": clip})

        self._try(f"audio {name!r}", record)

    def finish(self) -> None:
        self._try("the end of the run", lambda run: run.finish())

    def _try(self, what: str, record: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            record(self._run)
        except Exception as error:  # noqa: BLE001  any error: a run is worth more than its curves
            log.warning("W&B stopped recording at %s: %s", what, error)
            self._run = None


@contextmanager
def open_tracker(params: Params, *, job: str) -> Iterator[Tracker]:
    """Open a tracker for one stage of one experiment.

    Runs of one experiment share a group: the name DVC gave it, or else a hash of its parameters;
    WANDB_RUN_GROUP puts a whole sweep into one.

    Args:
        params: The experiment; recorded as the run's config, without the path of the music.
        job: Type of the job, such as the stage.
    """
    recorder = _Recorder(None if params.runtime.wandb == "off" else _start(params, job))
    try:
        yield recorder
    finally:
        recorder.finish()


def _start(params: Params, job: str) -> Any:  # noqa: ANN401  W&B's run, or None
    try:
        return _init(params, job)
    except Exception as error:  # noqa: BLE001  any error: a failed start must not stop the run
        log.warning("W&B could not start, the run goes on without it: %s", error)
        return None


def _init(params: Params, job: str) -> Any:  # noqa: ANN401
    folder = scratch("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    for variable in _FOLDER_VARIABLES:
        os.environ.setdefault(variable, str(folder.resolve()))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    experiment = os.environ.get("DVC_EXP_NAME") or hash_params(params)
    return wandb.init(
        project="melodac",
        name=f"{experiment} {job}",
        group=os.environ.get("WANDB_RUN_GROUP") or experiment,
        job_type=job,
        config=params.model_dump(mode="json", exclude={"ingest": {"source"}}),
        dir=str(folder),
        mode="online" if params.runtime.wandb == "online" else "offline",
        settings=wandb.Settings(
            silent=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            console="off",
            host="",
            username="",
            program="",
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )


def _as_number(value: object) -> float | int | None:
    """Return a number as it is, `nan` and `inf` parsed from text, and None for anything else."""
    if isinstance(value, str):
        return float(value) if value in {"nan", "inf", "-inf"} else None
    return value if isinstance(value, bool | int | float) else None
