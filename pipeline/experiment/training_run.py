"""Training run, as seen by the train stage and its watchers: directory, data, reports.

The stage assembles the pieces; the trainer's callbacks go from here to the log, the tracker, the
progress bar and the terminal.

Resumable state is in `.scratch/<purpose>/<fingerprint>`. DVC deletes a stage's outputs before it
runs, and a persisted output would mix old weights with new params. So the state is outside of the
outputs, under a hash of everything that changes the run: another value, another directory. One
process at a time may hold it.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Int64
from torch import Tensor

from melodac.errors import OutputError
from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import DelayPattern
from melodac.training.conditions import count_left_out
from melodac.training.data import TrainingData
from melodac.training.events import Event, Metrics
from melodac.training.guards.variety import GenerateCodes
from melodac.training.planning.cost import RunShape, forecast_run
from melodac.training.schedule import schedule_warnings
from melodac.training.trainer import Trainer
from pipeline.experiment.dataset import Dataset, read_dataset
from pipeline.experiment.model import build_model, build_train_pattern, read_tags
from pipeline.experiment.train_log import EVENT, TRAIN, VALIDATION, TrainLog
from pipeline.logs import Advance
from pipeline.params import Params, TrainParams
from pipeline.paths import scratch
from pipeline.processes.devices import set_up_torch
from pipeline.watch.tracking import Tracker


def name_run_directory(purpose: str, identity: Mapping[str, Any]) -> Path:
    """Return the directory of the run that `identity` describes; it need not exist yet."""
    text = json.dumps(identity, sort_keys=True)
    return scratch(purpose) / hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def hold_run_directory(directory: Path) -> Iterator[None]:
    """Create the directory of a run and lock it for a with-block.

    The lock belongs to the process and ends with it, so a killed run leaves nothing to clean up.

    Raises:
        OutputError: If it cannot be created, or another process holds it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"{directory}: cannot be written: {error.strerror}") from error
    try:
        _lock(lock, directory)
        yield
    finally:
        os.close(lock)


def remove_run_directory(directory: Path) -> None:
    """Delete the state of a run that is finished and whose results are in place."""
    shutil.rmtree(directory)


def _lock(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode().strip()
        raise OutputError(
            f"{directory} is in use by process {holder}: the same run is already going on, "
            "wait for it or stop it"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


log = logging.getLogger(__name__)
PLAIN = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)


class TrainingSetup(NamedTuple):
    """Everything that a training run begins with."""

    model: LanguageModel
    """Fresh model on the device of the params."""
    pattern: DelayPattern
    data: TrainingData
    dataset: Dataset


def set_up_training(params: Params, *, dropout: float, seed: int) -> TrainingSetup:
    """Set up torch, read the data of the params and build a fresh model for them.

    Args:
        params: All params.
        dropout: Share of activations dropped in training.
        seed: Seed of the weights.
    """
    device = set_up_torch(params.runtime)
    dataset = read_dataset(params.train.layout)
    pattern = build_train_pattern(params.train, dataset)
    data = read_training_data(params.train, dataset)
    model = build_model(params.train, pattern, dataset, dropout=dropout, seed=seed)
    return TrainingSetup(model.to(device), pattern, data, dataset)


def read_training_data(train: TrainParams, dataset: Dataset) -> TrainingData:
    """Return both splits for training, with their tags if the model reads text."""
    return TrainingData(
        dataset.split("train"),
        dataset.split("validation"),
        dataset.index.window_frames,
        dataset.index.starts("train"),
        read_tags(train, dataset, "train"),
        read_tags(train, dataset, "validation"),
    )


def announce_run(trainer: Trainer, params: Params) -> None:
    """Log the forecast of a run; refuse it if its checkpoints do not fit on the disk."""
    model, data = trainer.state.model.config, trainer.data
    shape = describe_shape(model, trainer.pattern, data, params)
    times = trainer.time_passes()
    if not trainer.ranks.is_first or trainer.directory is None:
        return
    found = forecast_run(
        shape,
        device=trainer.state.device,
        directory=trainer.directory,
        times=times,
        first=min(trainer.update + 1, trainer.config.updates),
    )
    for line in found.lines:
        log.info("%s", line)
    for line in (*schedule_warnings(trainer.config), *found.warnings):
        log.warning("%s", line)
    if left_out := count_left_out(data.train_tags, model.text_bytes):
        log.warning(
            "%d tags find no room in the %d bytes that the model reads of a track, shorter tags do",
            left_out,
            model.text_bytes,
        )


def describe_shape(
    model: LanguageModelConfig, pattern: DelayPattern, data: TrainingData, params: Params
) -> RunShape:
    """Collect everything about a run that decides its cost."""
    return RunShape(
        model,
        params.train.trainer_config(),
        pattern,
        window_frames=data.window_frames,
        train_frames=int(data.train.lengths.sum()),
        validation_frames=int(data.validation.lengths.sum()),
        world_size=params.runtime.processes,
        sharding=params.runtime.sharding,
    )


def probe_generator(pattern: DelayPattern) -> GenerateCodes:
    """Return a generator of clips at T = 1 with fixed seeds, for the collapse monitor."""

    def play(model: LanguageModel, num_items: int, num_frames: int) -> Int64[Tensor, "B K T"]:
        return generate(
            model, pattern, num_frames=num_frames, seeds=range(num_items), settings=PLAIN
        )

    return play


class RunWatcher:
    """Callbacks of the trainer that feed the log, the tracker and the progress bar."""

    def __init__(self, train_log: TrainLog, tracker: Tracker, advance: Advance) -> None:
        self.train_log = train_log
        self.tracker = tracker
        self.advance = advance

    def on_update(self, metrics: Metrics) -> None:
        """Record one update."""
        self._record(TRAIN, metrics)
        self.advance(f"loss {_short(metrics['loss'])}, {metrics['frames_per_s']:.0f} frames/s")

    def on_validation(self, metrics: Metrics) -> None:
        """Record one validation and log it."""
        self._record(VALIDATION, metrics)
        log.info("update %d: validation %.4f nats per code", metrics["update"], metrics["loss"])

    def on_event(self, event: Event) -> None:
        """Record an event and log it as a warning."""
        self.train_log.write(EVENT, event.line())
        self.tracker.log_event(event.name, event.reason, event.update)
        log.warning("update %d: %s", event.update, event.reason)

    def on_audit(self, event: Event) -> None:
        """Record the numbers of a passed start audit."""
        self._record(EVENT, event.line())
        log.info("start audit: %s, %d numbers in the log", event.reason, len(event.values))

    def _record(self, kind: str, metrics: Metrics) -> None:
        self.train_log.write(kind, metrics)
        named: dict[str, Any] = {f"{kind}/{key}": value for key, value in metrics.items()}
        self.tracker.log(named, int(metrics["update"]))


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
