"""Token windows -> a checkpoint and its curves, by the one trainer; resumes after any stop.

What is left behind is the checkpoint of the best validation; the state that a resume needs stays in
the run directory until the run is complete.
"""

import logging
import shutil
from pathlib import Path

from melodac.errors import CheckpointCorruptError
from melodac.models.config import LanguageModelConfig, count_parameters
from melodac.models.estimates import codes_per_parameter
from melodac.training.checkpoint import latest_checkpoint
from melodac.training.loop import Callbacks, Metrics, Trainer, TrainResult
from melodac.training.update import TrainingData
from pipeline import paths
from pipeline.datasets import read_dataset
from pipeline.devices import set_up_torch
from pipeline.experiment import build_model, build_train_pattern, describe_run
from pipeline.logs import Advance, progress_bar
from pipeline.params import Params
from pipeline.records import Outcome
from pipeline.run_directory import hold_run_directory, remove_run_directory
from pipeline.signals import StopRequest, stop_on_signal
from pipeline.tracking import Tracker, open_tracker
from pipeline.train_log import TRAIN, VALIDATION, TrainLog, curve, read_log, write_curve

log = logging.getLogger(__name__)
LOG_NAME = "log.jsonl"


def run(params: Params) -> Outcome:
    """Train, or go on where an earlier run of the same experiment stopped."""
    device = set_up_torch(params.runtime)
    dataset = read_dataset(params.train.layout)
    pattern = build_train_pattern(params.train, dataset)
    model = build_model(
        params.train, pattern, dropout=params.train.dropout, seed=params.train.seed
    ).to(device)
    data = TrainingData(
        dataset.split("train"),
        dataset.split("validation"),
        dataset.index.window_frames,
        dataset.index.starts("train"),
    )
    identity = describe_run(model, dataset)
    experiment = {**identity, "train": params.train.model_dump(mode="json")}
    count = _log_scale(model.config, data)
    with (
        hold_run_directory("train", experiment) as directory,
        stop_on_signal() as stop,
        open_tracker(
            params.runtime.wandb, group="train", config=params.model_dump(mode="json")
        ) as tracker,
    ):
        trainer = Trainer(
            model,
            pattern,
            data,
            config=params.train.trainer_config(),
            directory=directory,
            identity=identity,
        )
        result = _resume_and_run(trainer, directory / LOG_NAME, tracker, stop)
        stop.raise_if_asked()
        _leave_results(directory)
        remove_run_directory(directory)
    return _summarise(result, count)


def _log_scale(config: LanguageModelConfig, data: TrainingData) -> int:
    """Tell what is about to be trained on how much; returns the number of parameters."""
    parameters = count_parameters(config).total
    num_codes = int(data.train.lengths.sum()) * config.num_codebooks
    log.info(
        "model of %.2f M parameters, %d training codes, %.2f codes a parameter, weights of %.0f MB",
        parameters / 1e6,
        num_codes,
        codes_per_parameter(config, num_codes=num_codes),
        parameters * 4 / 1e6,
    )
    return parameters


def _resume_and_run(
    trainer: Trainer, log_path: Path, tracker: Tracker, stop: StopRequest
) -> TrainResult:
    for warning in trainer.resume():
        log.warning("%s", warning)
    if trainer.update:
        log.info("resumed after update %d", trainer.update)
    with progress_bar(
        total=trainer.config.updates, unit="update", description="train", done=trainer.update
    ) as advance:
        watcher = _Watcher(TrainLog(log_path, trainer.update), tracker, advance)
        trainer.callbacks = Callbacks(watcher.on_update, watcher.on_validation, stop)
        return trainer.run()


class _Watcher:
    """Hands what the trainer says to the log, the tracker and the progress bar."""

    def __init__(self, train_log: TrainLog, tracker: Tracker, advance: Advance) -> None:
        self.train_log = train_log
        self.tracker = tracker
        self.advance = advance

    def on_update(self, metrics: Metrics) -> None:
        self._record(TRAIN, metrics)
        self.advance(f"loss {metrics['loss']:.3f}, {metrics['frames_per_s']:.0f} frames/s")

    def on_validation(self, metrics: Metrics) -> None:
        self._record(VALIDATION, metrics)
        log.info("update %d: validation %.4f nats per code", metrics["update"], metrics["loss"])

    def _record(self, kind: str, metrics: Metrics) -> None:
        self.train_log.write(kind, metrics)
        named = {f"{kind}/{key}": value for key, value in metrics.items()}
        self.tracker.log(named, int(metrics["update"]))


def _leave_results(directory: Path) -> None:
    best = latest_checkpoint(directory / "best").checkpoint
    if best is None:
        raise CheckpointCorruptError(f"{directory} holds no validated checkpoint")
    partial_copy = paths.CHECKPOINT.with_name(".checkpoint.partial")
    for leftover in (partial_copy, paths.CHECKPOINT):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(best.folder, partial_copy / best.folder.name)
    partial_copy.rename(paths.CHECKPOINT)
    shutil.copy(directory / LOG_NAME, paths.TRAIN_LOG)
    write_curve(paths.HISTORY, curve(read_log(paths.TRAIN_LOG)))


def _summarise(result: TrainResult, parameters: int) -> Outcome:
    updates = [line for line in read_log(paths.TRAIN_LOG) if line["kind"] == TRAIN]
    rates = sorted(line["frames_per_s"] for line in updates)
    best = result.best
    return Outcome(
        counts={"updates": result.update, "best update": best.update if best else 0},
        metrics={
            "best_update": best.update if best else None,
            "validation_nats": round(best.loss, 5) if best else None,
            "train_nats": round(updates[-1]["loss"], 5),
            "frames_per_s": round(rates[len(rates) // 2]),
            "clip_rate": round(sum(line["is_clipped"] for line in updates) / len(updates), 4),
            "parameters": parameters,
        },
    )
