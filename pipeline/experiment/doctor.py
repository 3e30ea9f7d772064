"""`melodac doctor`: examination of a run by its checkpoints and its log.

It takes a finished run, the state of a running one, a folder of checkpoints or one checkpoint. The
train stage writes the same report before it deletes the optimizer state.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melodac.doctor.diagnosis import Patient, Report, examine
from melodac.doctor.differences import Present
from melodac.doctor.findings import significant
from melodac.errors import CheckpointCorruptError
from melodac.training.checkpoint import Checkpoint, numbered_checkpoints, open_checkpoint
from pipeline import paths
from pipeline.experiment.model import TRAINING_CODE
from pipeline.experiment.train_log import UPDATE, Line, read_log
from pipeline.identity import fingerprint_code
from pipeline.records import read_json, write_json

log = logging.getLogger(__name__)

_FOLDERS = ("checkpoints", "best", "checkpoint")
"""Folders of checkpoints in a run: of its updates, its best, and that of a finished run."""
_LOG = "log.jsonl"
_LEVELS = {"failure": logging.ERROR, "warning": logging.WARNING}


def examine_path(path: Path, against: Path | None = None) -> Report:
    """Examine a run by its folder; `CheckpointCorruptError` without an intact checkpoint.

    Args:
        path: Run, folder of checkpoints, or checkpoint.
        against: Another one, to count the decisions by which the two differ.
    """
    patient = find_patient(path)
    return examine(
        patient,
        unigram=_read_unigram(patient.newest.config),
        present=_describe_present(),
        other=None if against is None else find_patient(against),
    )


def leave_report(directory: Path, target: Path) -> Report:
    """Examine a run that has just ended, write the report as JSON, and log bad findings.

    Args:
        directory: Directory of the run, with its optimizer state.
        target: File of the report.
    """
    report = examine_path(directory)
    write_report(target, report)
    for finding in report.findings:
        if finding.severity in _LEVELS:
            text = f"{finding.measured} ({finding.threshold}). {finding.diagnosis}"
            log.log(_LEVELS[finding.severity], "doctor: %s: %s", finding.check, text)
    return report


def write_report(target: Path, report: Report) -> None:
    """Write a report as JSON; values that are not finite or not measured are null."""
    write_json(target, {**_plain(vars(report)), "exit_code": report.exit_code()})


def find_patient(path: Path) -> Patient:
    """Collect the checkpoints and the log of a run from a folder.

    Raises:
        CheckpointCorruptError: If there is no checkpoint, or none is intact.
    """
    folders, log_path = _locate(path)
    checkpoints: list[Checkpoint] = []
    damaged: list[str] = []
    for folder in folders:
        try:
            checkpoints.append(open_checkpoint(folder))
        except CheckpointCorruptError as error:
            if folder.exists():  # otherwise a running training has just removed it
                damaged.append(str(error))
    if not checkpoints:
        raise CheckpointCorruptError(
            f"{path} holds {len(damaged)} checkpoints and none is whole: {damaged[0]}"
            if damaged
            else f"{path} holds no checkpoint: give a run, a folder of checkpoints or one of them, "
            f"or run `dvc repro train` first"
        )
    return Patient(checkpoints, damaged, _read_lines(log_path, folders, path))


def _locate(path: Path) -> tuple[list[Path], Path]:
    """Return the folders that should be checkpoints, and the log of their run."""
    if (path / "manifest.json").is_file() or path.name.isdecimal():
        return [path] if path.is_dir() else [], path.parent.parent / _LOG
    inside = [folder for name in _FOLDERS for folder in numbered_checkpoints(path / name)]
    if inside:
        return inside, path / _LOG
    return numbered_checkpoints(path), path.parent / _LOG


def _read_lines(log_path: Path, folders: list[Path], path: Path) -> list[Line]:
    try:
        lines = read_log(log_path)
        # a single checkpoint is judged by the log up to its own update
        last = int(path.name) if folders == [path] else None
        return [line for line in lines if last is None or line[UPDATE] <= last]
    except (ValueError, KeyError) as error:
        raise CheckpointCorruptError(
            f"{log_path} is damaged: {error!r}; restore it with `dvc checkout`, or move it away to "
            "examine the checkpoints alone"
        ) from error


def _describe_present() -> Present:
    index = read_json(paths.INDEX) if paths.INDEX.exists() else {}
    return Present(fingerprint_code(TRAINING_CODE), index.get("fingerprint"))


def _read_unigram(config: Mapping[str, Any]) -> list[float] | None:
    """Return held-out baselines in the order of the run's columns, if they are of its data."""
    if not (paths.BASELINES.exists() and paths.INDEX.exists() and "layout" in config):
        return None
    if read_json(paths.INDEX)["fingerprint"] != config.get("data_fingerprint"):
        return None
    baselines = read_json(paths.BASELINES)
    nats = dict(zip(baselines["columns"], baselines["validation"]["unigram"], strict=True))
    columns = [f"{one['channel']} {one['codebook']}" for one in config["layout"]["columns"]]
    return [nats[column] for column in columns] if set(columns) <= nats.keys() else None


def _plain(value: Any) -> Any:  # noqa: ANN401  any part of a report
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]  a NamedTuple
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
