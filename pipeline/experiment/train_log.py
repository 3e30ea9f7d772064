"""The training log: one JSON line an update, and the tables that DVC plots from it.

Lines are appended as the run goes on; a resumed run first drops those beyond its checkpoint, so the
finished log reads as if nothing had happened. A cell of a table is empty where nothing was measured
or what was measured is not finite, never 0. The tables and their columns depend on the number of
codebooks and layers alone, so that plots of any two runs can be laid over each other.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.records import format_csv, write_text

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
    columns = (UPDATE, "train_nats", "validation_nats")
    cells = ([None if math.isnan(row[name]) else row[name] for name in columns] for row in rows)
    write_text(path, format_csv(columns, cells))


def read_curve(path: Path) -> list[dict[str, float]]:
    """Read the curve of a finished run; empty cells become NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value or "nan") for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


MAX_ROWS = 1000
"""Most rows of a table of updates; beyond it each row is the mean of several updates."""

Row = dict[str, float | int | None]

_OF_UPDATES = ("learning_rate", "grad_norm", "grad_norm_clipped", "clip_frac", "skip_frac")
_OF_SPEED = ("update_ratio", "frames_per_s")
_LARGEST = "grad_norm_largest"
_OF_CODEBOOKS = {
    "usage": ("usage", "target_usage"),
    "entropy": ("entropy", "target_entropy"),
}


def write_curves(folder: Path, lines: Sequence[Line]) -> None:
    """Write every table into a folder, including those without rows.

    Args:
        folder: Folder of the tables; created if missing.
        lines: The whole training log, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (columns, rows) in build_tables(lines).items():
        cells = ([row[column] for column in columns] for row in rows)
        write_text(folder / f"{name}.csv", format_csv(columns, cells))


def build_tables(lines: Sequence[Line]) -> dict[str, tuple[list[str], list[Row]]]:
    """Return columns and rows of each table, by file name without suffix."""
    updates = [line for line in lines if line["kind"] == TRAIN]
    validations = [line for line in lines if line["kind"] == VALIDATION]
    num_codebooks = _count(lines, "loss_k")
    losses = _columns(["loss"], num_codebooks)
    tables = {
        "updates": ([*_OF_UPDATES, _LARGEST, *_OF_SPEED], _thin(updates)),
        "train_codebooks": (losses, _between(lines, losses)),
        "validation_codebooks": (losses, _pick(validations, losses)),
    }
    for name, kinds in _OF_CODEBOOKS.items():
        columns = _columns(kinds, num_codebooks)
        tables[name] = (columns, _pick(validations, columns))
    attention = [f"attention_entropy_l{n}" for n in range(_count(lines, "attention_entropy_l"))]
    tables["attention"] = (attention, _pick(validations, attention))
    return {name: ([UPDATE, *columns], rows) for name, (columns, rows) in tables.items()}


def _thin(updates: list[Line]) -> list[Row]:
    """Average groups of neighbouring updates so that the rows stay within the limit."""
    size = max(1, math.ceil(len(updates) / MAX_ROWS))
    rows: list[Row] = []
    for first in range(0, len(updates), size):
        group = updates[first : first + size]
        row: Row = {UPDATE: group[-1][UPDATE]}
        row |= {name: _mean(group, name) for name in (*_OF_UPDATES, *_OF_SPEED)}
        # a spike of one update must not vanish in a mean
        row[_LARGEST] = max(_numbers(group, "grad_norm"), default=None)
        rows.append(row)
    return rows


def _between(lines: Sequence[Line], columns: list[str]) -> list[Row]:
    """Return, at each validation, the means of the updates since the last one."""
    rows: list[Row] = []
    group: list[Line] = []
    for line in lines:
        if line["kind"] == TRAIN:
            group.append(line)
        elif line["kind"] == VALIDATION:
            rows.append({UPDATE: line[UPDATE], **{name: _mean(group, name) for name in columns}})
            group = []
    return rows


def _pick(lines: list[Line], columns: list[str]) -> list[Row]:
    return [
        {UPDATE: line[UPDATE], **{name: _mean([line], name) for name in columns}} for line in lines
    ]


def _mean(lines: list[Line], name: str) -> float | None:
    numbers = _numbers(lines, name)
    return math.fsum(numbers) / len(numbers) if numbers else None


def _numbers(lines: list[Line], name: str) -> list[float]:
    values = [line.get(name) for line in lines]
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _columns(kinds: Sequence[str], num_codebooks: int) -> list[str]:
    return [f"{kind}_k{codebook}" for kind in kinds for codebook in range(num_codebooks)]


def _count(lines: Sequence[Line], prefix: str) -> int:
    """Count the codebooks or layers in the log."""
    found = {name.removeprefix(prefix) for line in lines for name in line if prefix in name}
    return max((int(number) + 1 for number in found if number.isdecimal()), default=0)
