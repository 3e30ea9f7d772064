"""The table of the ear: how far every row is from the truth, by every proxy, or why not."""

import logging
from collections.abc import Iterable
from statistics import fmean
from typing import Any, NamedTuple

from melodac.errors import MelodacError
from melodac.evaluation.bootstrap import Bootstrap
from melodac.evaluation.proxies import ClipSet, Proxy, describe_clip, measure_distance
from pipeline.listening.ear import BROKEN, SAMPLED, EarStudy, RowName, Sound
from pipeline.records import format_csv

log = logging.getLogger(__name__)


class EarCell(NamedTuple):
    """One distance; or no distance and the reason."""

    row: str
    proxy: str
    distance: float | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    """Mean of the row's clips, of a proxy that is one number."""
    clips: int = 0
    recordings: int = 0
    missing: str = ""


class EarTable(NamedTuple):
    """Every row by every proxy."""

    cells: tuple[EarCell, ...]

    def counts(self) -> dict[str, int | None]:
        """On how many proxies the model is nearer to the truth than what is broken on purpose.

        Nearer than each of shuffled frames, unigram samples and white noise; apart if its whole
        interval lies below theirs. None where a distance is missing.
        """
        found: dict[str, int | None] = {}
        for name in SAMPLED:
            rows = [self._row(row) for row in (name, *BROKEN)]
            if any(cell.distance is None for row in rows for cell in row):
                found |= {f"ear_{name}_nearer": None, f"ear_{name}_apart": None}
                continue
            columns = list(zip(*rows, strict=True))
            nearer = sum(
                _is_below(mine.distance, [other.distance for other in broken])
                for mine, *broken in columns
            )
            apart = sum(
                _is_below(mine.high, [other.low for other in broken]) for mine, *broken in columns
            )
            found |= {f"ear_{name}_nearer": nearer, f"ear_{name}_apart": apart}
        return found

    def distances(self) -> dict[str, dict[str, float | None]]:
        """Distances by row and proxy."""
        return {name: {cell.proxy: cell.distance for cell in self._row(name)} for name in RowName}

    def reasons(self) -> dict[str, str]:
        """Why rows are missing; empty if none is."""
        return {cell.row: cell.missing for cell in self.cells if cell.missing}

    def as_csv(self) -> str:
        """The table as text, one line a distance; empty cells were not measured."""
        return format_csv(EarCell._fields, self.cells)

    def as_records(self) -> list[dict[str, Any]]:
        """The table for JSON."""
        return [cell._asdict() for cell in self.cells]

    def _row(self, name: RowName) -> list[EarCell]:
        return [cell for cell in self.cells if cell.row == name]


def missing_table(reason: str) -> EarTable:
    """The table where nothing could be heard."""
    return EarTable(tuple(cell for name in RowName for cell in _missing_row(name, reason)))


def compare_by_ear(study: EarStudy, bootstrap: Bootstrap) -> EarTable:
    """Measure every row; one that cannot be made is missing with its reason, the others stand."""
    rate_hz = study.instrument.codec.sample_rate_hz
    try:
        truth = _describe(study.truth(), rate_hz)
    except MelodacError as error:
        log.warning("the proxies of the ear are missing: %s", error)
        return missing_table(str(error))
    cells: list[EarCell] = []
    for name in RowName:
        try:
            clips = _describe(study.sounds(name), rate_hz)
            cells += _measure_row(name, clips, truth, bootstrap)
        except MelodacError as error:
            log.warning("the ear's row %s is missing: %s", name, error)
            cells += _missing_row(name, str(error))
    return EarTable(tuple(cells))


def _describe(sounds: Iterable[Sound], rate_hz: int) -> ClipSet:
    units, descriptions = zip(
        *((unit, describe_clip(audio, rate_hz=rate_hz)) for unit, audio in sounds), strict=True
    )
    return ClipSet(descriptions, units)


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
