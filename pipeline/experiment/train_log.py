"""The training log: one JSON line an update, and the curve that DVC plots from it.

Lines are appended as the run goes on; a resumed run first drops those beyond its checkpoint, so the
finished log reads as if nothing had happened.
"""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.records import format_csv, write_text

Line = dict[str, Any]
TRAIN = "train"
VALIDATION = "validation"
EVENT = "event"
UPDATE = "update"


class TrainLog:
    """Appends to a JSONL file."""

    def __init__(self, path: Path, resumed_update: int) -> None:
        """Open the log of a run that stands at `resumed_update`."""
        self.path = path
        kept = [line for line in read_log(path) if line[UPDATE] <= resumed_update]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, metrics: Mapping[str, Any]) -> None:
        """Append one line, whole: what is read back never ends in the middle."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **metrics}) + "\n")


def read_log(path: Path) -> list[Line]:
    """Every complete line; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines()]


def curve(lines: list[Line]) -> list[dict[str, float]]:
    """For each validation: its loss, and the mean training loss of the updates since the last."""
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    for line in lines:
        if line["kind"] == VALIDATION:
            mean = sum(losses) / len(losses) if losses else float("nan")
            rows.append({
                UPDATE: line[UPDATE],
                "train_nats": mean,
                "validation_nats": line["loss"],
            })
            losses = []
        elif line["kind"] == TRAIN and isinstance(line["loss"], float):
            losses.append(line["loss"])
    return rows


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Write the curve as the CSV that `dvc plots` reads; what is not known is an empty cell."""
    columns = (UPDATE, "train_nats", "validation_nats")
    cells = ([None if math.isnan(row[name]) else row[name] for name in columns] for row in rows)
    write_text(path, format_csv(columns, cells))


def read_curve(path: Path) -> list[dict[str, float]]:
    """The curve of a finished run; NaN where a cell is empty."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
