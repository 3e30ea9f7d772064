"""The training log: one JSON line per update, and the curve that DVC plots from it.

Lines are appended during the run. A resumed run first drops those beyond its checkpoint, so the
finished log reads as if the run had never stopped.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.records import write_text

Line = dict[str, Any]
TRAIN = "train"
VALIDATION = "validation"
EVENT = "event"
UPDATE = "update"


class TrainLog:
    """Writer of a log in JSONL."""

    def __init__(self, path: Path, resumed_update: int) -> None:
        """Open the log of a run at `resumed_update`, dropping later lines."""
        self.path = path
        kept = [line for line in read_log(path) if line[UPDATE] <= resumed_update]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, kind: str, metrics: Mapping[str, Any]) -> None:
        """Append one complete line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **metrics}) + "\n")


def read_log(path: Path) -> list[Line]:
    """Read every complete line; a last line truncated by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in complete.splitlines()]


def curve(lines: list[Line]) -> list[dict[str, float]]:
    """Return, for each validation, its loss and the mean training loss since the last one."""
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
    """Write the curve as the CSV that `dvc plots` reads; unknown values are empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [UPDATE, "train_nats", "validation_nats"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: None if math.isnan(value) else value for key, value in row.items()} for row in rows
    )
    write_text(path, text.getvalue())


def read_curve(path: Path) -> list[dict[str, float]]:
    """Read the curve of a finished run; empty cells become NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
