"""Token windows -> a checkpoint and its curves; resumes after any stop.

The output is the checkpoint with the best validation loss; the state that a resume needs stays in
the run directory until the run is complete.
"""

import logging
import shutil
from pathlib import Path

from melodac.errors import CheckpointCorruptError
from melodac.models.config import count_parameters
from melodac.training.checkpoint import latest_checkpoint
from melodac.training.distributed import Ranks
from melodac.training.events import Event
from melodac.training.trainer import Callbacks, Trainer, TrainResult
from pipeline import paths
from pipeline.experiment.doctor import leave_report
from pipeline.experiment.model import describe_run
from pipeline.experiment.train_log import (
    TRAIN,
    TrainLog,
    curve,
    read_log,
    write_curve,
    write_curves,
)
from pipeline.experiment.training_run import (
    RunWatcher,
    announce_run,
    hold_run_directory,
    name_run_directory,
    probe_generator,
    remove_run_directory,
    set_up_training,
)
from pipeline.logs import progress_bar
from pipeline.params import Params
from pipeline.processes.signals import StopRequest, stop_on_signal
from pipeline.records import Outcome
from pipeline.watch.tracking import Tracker, open_tracker

log = logging.getLogger(__name__)
LOG_NAME = "log.jsonl"


def run(params: Params) -> Outcome:
    """Train, or resume an earlier run of the same experiment."""
    model, pattern, data, dataset = set_up_training(
        params, dropout=params.train.dropout, seed=params.train.seed
    )
    identity = describe_run(model, dataset)
    experiment = {**identity, "train": params.train.model_dump(mode="json")}
    ranks = Ranks.current(params.runtime.sharding)
    directory = name_run_directory("train", experiment)
    trainer = Trainer(
        model,
        pattern,
        data,
        config=params.train.trainer_config(),
        directory=directory,
        identity=identity,
        ranks=ranks,
    )
    if not ranks.is_first:
        return _follow(trainer, params)
    with (
        hold_run_directory(directory),
        stop_on_signal(ranks.max) as stop,
        open_tracker(params, job="train") as tracker,
    ):
        result = _resume_and_run(trainer, params, directory / LOG_NAME, tracker=tracker, stop=stop)
        stop.raise_if_asked()
        _leave_results(directory)
        remove_run_directory(directory)
    return _summarise(result, count_parameters(model.config).total)


def _follow(trainer: Trainer, params: Params) -> Outcome:
    """Train in a process other than the first, which alone writes and logs."""
    with stop_on_signal(trainer.ranks.max) as stop:
        trainer.resume()
        announce_run(trainer, params)
        _audit(trainer)
        trainer.run(Callbacks(should_stop=stop, generate_codes=probe_generator(trainer.pattern)))
        stop.raise_if_asked()
    return Outcome(counts={})


def _resume_and_run(
    trainer: Trainer, params: Params, log_path: Path, *, tracker: Tracker, stop: StopRequest
) -> TrainResult:
    for warning in trainer.resume():
        log.warning("%s", warning)
    if trainer.update:
        log.info("resumed after update %d", trainer.update)
    announce_run(trainer, params)
    with progress_bar(
        total=trainer.config.updates, unit="update", description="train", done=trainer.update
    ) as advance:
        watcher = RunWatcher(TrainLog(log_path, trainer.update), tracker, advance)
        _audit(trainer, watcher)
        return trainer.run(
            Callbacks(
                on_update=watcher.on_update,
                on_validation=watcher.on_validation,
                should_stop=stop,
                on_event=watcher.on_event,
                generate_codes=probe_generator(trainer.pattern),
            )
        )


def _audit(trainer: Trainer, watcher: RunWatcher | None = None) -> None:
    """Audit the untrained model, which raises on a bad start; a resumed run is not audited."""
    if trainer.update:
        return
    numbers = trainer.audit()
    if watcher is not None:
        watcher.on_audit(Event("audit", 0, "the model is fit to be trained", numbers))


def _leave_results(directory: Path) -> None:
    best = latest_checkpoint(directory / "best").checkpoint
    if best is None:
        raise CheckpointCorruptError(f"{directory} holds no validated checkpoint")
    leave_report(directory, paths.TRAIN_DOCTOR)
    partial_copy = paths.CHECKPOINT.with_name(".checkpoint.partial")
    for leftover in (partial_copy, paths.CHECKPOINT):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(best.folder, partial_copy / best.folder.name)
    partial_copy.rename(paths.CHECKPOINT)
    shutil.copy(directory / LOG_NAME, paths.TRAIN_LOG)
    lines = read_log(paths.TRAIN_LOG)
    write_curve(paths.HISTORY, curve(lines))
    write_curves(paths.TRAIN_CURVES, lines)


def _summarise(result: TrainResult, parameters: int) -> Outcome:
    updates = [line for line in read_log(paths.TRAIN_LOG) if line["kind"] == TRAIN]
    rates = sorted(line["frames_per_s"] for line in updates)
    best = result.best
    return Outcome(
        counts={"updates": result.update, "best update": best.update if best else 0},
        metrics={
            "best_update": best.update if best else None,
            "validation_nats": round(best.loss, 5) if best else None,
            "train_nats": next(
                (round(line["loss"], 5) for line in reversed(updates) if not line["is_skipped"]),
                None,
            ),
            "frames_per_s": round(rates[len(rates) // 2]),
            "clip_rate": round(sum(line["is_clipped"] for line in updates) / len(updates), 4),
            "skipped_updates": sum(line["is_skipped"] for line in updates),
            "parameters": parameters,
        },
    )
