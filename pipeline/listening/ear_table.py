"""Table of the ear comparison: distance of every row from the truth, by every proxy."""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any, NamedTuple

import torch

from melodac.errors import MelodacError
from melodac.evaluation.bootstrap import Bootstrap
from melodac.evaluation.proxies import (
    ClipSet,
    Proxy,
    describe_clip,
    measure_distance,
    measure_margin,
)
from pipeline.listening.ear import BROKEN, SAMPLED, EarStudy, RowName, Sound
from pipeline.records import format_csv

log = logging.getLogger(__name__)


class EarCell(NamedTuple):
    """One distance with its 95 % interval, or the reason why it is missing."""

    row: str
    proxy: str
    distance: float | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    """Mean over the row's clips; None for a proxy of several numbers."""
    margin: float | None = None
    """Sampled rows only: how much nearer to the truth the row is than each broken row, as the least
    lower end of the 95 % intervals of these differences."""
    clips: int = 0
    recordings: int = 0
    missing: str = ""


class EarTable(NamedTuple):
    """Distances of every row by every proxy."""

    cells: tuple[EarCell, ...]

    def counts(self) -> dict[str, int | None]:
        """Count the proxies on which the model is nearer to the truth than all broken rows.

        Those are shuffled frames, unigram samples and white noise. `nearer` compares the distances;
        `apart` asks that the interval of each difference lies above 0. None where a distance is
        missing.
        """
        found: dict[str, int | None] = {}
        for name in SAMPLED:
            rows = [self._row(row) for row in (name, *BROKEN)]
            if any(cell.distance is None for row in rows for cell in row):
                found |= {f"ear_{name}_nearer": None, f"ear_{name}_apart": None}
                continue
            nearer = sum(
                _is_below(mine.distance, [other.distance for other in broken])
                for mine, *broken in zip(*rows, strict=True)
            )
            apart = sum(mine.margin is not None and mine.margin > 0 for mine in rows[0])
            found |= {f"ear_{name}_nearer": nearer, f"ear_{name}_apart": apart}
        return found

    def distances(self) -> dict[str, dict[str, float | None]]:
        """Return the distances by row and proxy."""
        return {name: {cell.proxy: cell.distance for cell in self._row(name)} for name in RowName}

    def reasons(self) -> dict[str, str]:
        """Return the reason for each missing row."""
        return {cell.row: cell.missing for cell in self.cells if cell.missing}

    def as_csv(self) -> str:
        """Format the table as CSV, one line per distance; empty cells were not measured."""
        return format_csv(EarCell._fields, self.cells)

    def as_records(self) -> list[dict[str, Any]]:
        """Convert the table to JSON values."""
        return [cell._asdict() for cell in self.cells]

    def _row(self, name: RowName) -> list[EarCell]:
        return [cell for cell in self.cells if cell.row == name]


def missing_table(reason: str) -> EarTable:
    """Build a table in which every row is missing for the same reason."""
    return EarTable(tuple(cell for name in RowName for cell in _missing_row(name, reason)))


def compare_by_ear(study: EarStudy, bootstrap: Bootstrap) -> EarTable:
    """Measure every row; a row that cannot be made is missing with its reason."""
    rate_hz = study.instrument.codec.sample_rate_hz
    try:
        truth = _describe(study.truth(), rate_hz)
    except MelodacError as error:
        log.warning("the proxies of the ear are missing: %s", error)
        return missing_table(str(error))
    described: dict[RowName, ClipSet] = {}
    cells: dict[RowName, list[EarCell]] = {}
    for name in RowName:
        try:
            described[name] = _describe(study.sounds(name), rate_hz)
            cells[name] = _measure_row(name, described[name], truth, bootstrap)
        except MelodacError as error:
            log.warning("the ear's row %s is missing: %s", name, error)
            cells[name] = _missing_row(name, str(error))
    if set(BROKEN) <= set(described):
        for name in set(SAMPLED) & set(described):
            cells[name] = [
                cell._replace(margin=_least_margin(cell, described, truth, bootstrap))
                for cell in cells[name]
            ]
    return EarTable(tuple(cell for row in cells.values() for cell in row))


def _least_margin(
    cell: EarCell, described: Mapping[RowName, ClipSet], truth: ClipSet, bootstrap: Bootstrap
) -> float:
    proxy, clips = Proxy(cell.proxy), described[RowName(cell.row)]
    margins = [
        measure_margin(proxy, clips, truth, bootstrap, others=described[name]) for name in BROKEN
    ]
    return round(min(margin.low for margin in margins if margin.low is not None), 5)


def _describe(sounds: Iterable[Sound], rate_hz: int) -> ClipSet:
    # in threads, while the next clips are generated and decoded
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        units, descriptions = zip(
            *((unit, pool.submit(describe_clip, audio, rate_hz=rate_hz)) for unit, audio in sounds),
            strict=True,
        )
        return ClipSet(tuple(description.result() for description in descriptions), units)


def _measure_row(
    name: RowName, clips: ClipSet, truth: ClipSet, bootstrap: Bootstrap
) -> list[EarCell]:
    cells: list[EarCell] = []
    for proxy in Proxy:
        value, low, high = measure_distance(proxy, clips, truth, bootstrap)
        numbers = [description[proxy] for description in clips.descriptions]
        mean = fmean(float(number[0]) for number in numbers) if numbers[0].size == 1 else None
        cells.append(
            EarCell(
                name.value,
                proxy.value,
                *(None if x is None else round(x, 5) for x in (value, low, high, mean)),
                clips=len(clips.units),
                recordings=len(set(clips.units)),
            )
        )
    return cells


def _missing_row(name: RowName, reason: str) -> list[EarCell]:
    return [EarCell(name.value, proxy.value, missing=reason) for proxy in Proxy]


def _is_below(value: float | None, limits: list[float | None]) -> bool:
    return value is not None and all(limit is not None and value < limit for limit in limits)
