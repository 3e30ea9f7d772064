"""Geometry of the page's two charts: where lines, bars and ticks stand, in SVG user units.

Numbers go in and coordinates come out; `charts.html` only draws them. What was not measured or is
not finite leaves a gap and never a zero.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from melodac.report.page_content import CodebookEntropy, CurvePoint

WIDTH = 460.0
HEIGHT = 250.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 448.0, 14.0, 212.0

_BAR_SHARE = 0.68  # of the room of one codebook
_MARK_SHARE = 0.92


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class CurveDrawing:
    """Cross-entropy over updates."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    train_path: str
    validation_path: str
    validation_dots: tuple[tuple[float, float], ...]
    summary: str


@dataclass(frozen=True)
class Bar:
    """One codebook: a bar for the model, marks for the baselines; None where unmeasured."""

    label: str
    center: float
    left: float
    width: float
    mark_left: float
    mark_right: float
    model_top: float | None
    model_text: str
    unigram_y: float | None
    bigram_y: float | None


@dataclass(frozen=True)
class BarsDrawing:
    """Cross-entropy by codebook beside baselines."""

    y_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    summary: str


def draw_curve(points: Sequence[CurvePoint]) -> CurveDrawing | None:
    """Lay out the training curve, or None if nothing on it was measured."""
    points = sorted(points, key=lambda point: point.update)
    train = [(point.update, _finite(point.train_nats)) for point in points]
    validation = [(point.update, _finite(point.validation_nats)) for point in points]
    nats = [value for _, value in (*train, *validation) if value is not None]
    if not nats:
        return None
    x_ticks, x = _axis(
        float(points[0].update), float(points[-1].update), LEFT, RIGHT, is_whole=True
    )
    y_ticks, y = _axis(min(nats), max(nats), BOTTOM, TOP)
    dots = tuple((x(float(update)), y(value)) for update, value in validation if value is not None)
    measured = [value for _, value in validation if value is not None]
    summary = f"Cross-entropy from update {points[0].update:,} to {points[-1].update:,}."
    if measured:
        summary += f" Validation: {measured[-1]:.3f} at the end, {min(measured):.3f} at its lowest."
    return CurveDrawing(
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        train_path=_path(train, x, y, bridges_gaps=False),
        validation_path=_path(validation, x, y, bridges_gaps=True),
        validation_dots=dots,
        summary=summary,
    )


def _shorten(codebook: str) -> str:
    """`left 0` as `L0`: eighteen names stand side by side."""
    channel, _, number = codebook.rpartition(" ")
    return channel[:1].upper() + number


def draw_bars(codebooks: Sequence[CodebookEntropy]) -> BarsDrawing | None:
    """Lay out the bars by codebook, or None if nothing was measured."""
    rows = [
        (_finite(row.model_nats), _finite(row.unigram_nats), _finite(row.bigram_nats))
        for row in codebooks
    ]
    nats = [value for row in rows for value in row if value is not None]
    if not nats:
        return None
    y_ticks, y = _axis(0.0, max(nats), BOTTOM, TOP)
    room = (RIGHT - LEFT) / len(rows)
    bars = tuple(
        Bar(
            label=_shorten(str(codebook.codebook)),
            center=LEFT + (place + 0.5) * room,
            left=LEFT + (place + 0.5 - _BAR_SHARE / 2) * room,
            width=_BAR_SHARE * room,
            mark_left=LEFT + (place + 0.5 - _MARK_SHARE / 2) * room,
            mark_right=LEFT + (place + 0.5 + _MARK_SHARE / 2) * room,
            model_top=None if model is None else y(model),
            model_text="\N{EN DASH}" if model is None else f"{model:.2f}",
            unigram_y=None if unigram is None else y(unigram),
            bigram_y=None if bigram is None else y(bigram),
        )
        for place, (codebook, (model, unigram, bigram)) in enumerate(
            zip(codebooks, rows, strict=True)
        )
    )
    compared = [(model, bigram) for model, _, bigram in rows if None not in (model, bigram)]
    num_below = sum(1 for model, bigram in compared if (model or 0.0) < (bigram or 0.0))
    return BarsDrawing(
        y_ticks=y_ticks,
        bars=bars,
        summary=f"Below the bigram baseline on {num_below} of {len(compared)} codebooks.",
    )


def _axis(
    low: float, high: float, start: float, end: float, *, is_whole: bool = False
) -> tuple[tuple[Tick, ...], Callable[[float], float]]:
    """Round ticks that enclose the data, and the map from data to the page."""
    locator = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=is_whole, min_n_ticks=2)
    values = [float(value) for value in locator.tick_values(low, high)]
    span = values[-1] - values[0]

    def place(value: float) -> float:
        return round(start + (value - values[0]) / span * (end - start), 2)

    text = "{:,.0f}" if is_whole else "{:g}"
    return tuple(Tick(place(value), text.format(round(value, 6))) for value in values), place


def _path(
    series: Sequence[tuple[int, float | None]],
    x: Callable[[float], float],
    y: Callable[[float], float],
    *,
    bridges_gaps: bool,
) -> str:
    """SVG path through the measured points; validation is sparse on purpose, so it bridges gaps."""
    commands: list[str] = []
    is_drawing = False
    for update, value in series:
        if value is None:
            is_drawing = is_drawing and bridges_gaps
            continue
        commands.append(f"{'L' if is_drawing else 'M'}{x(float(update)):g} {y(value):g}")
        is_drawing = True
    return "".join(commands)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
