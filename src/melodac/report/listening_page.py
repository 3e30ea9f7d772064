"""The listening page: one HTML file with style and script inline, sound and pictures as files.

It opens from disk, without a server or a network. Everything that comes from files and tags is
escaped text in the template, and the page's content security policy allows no script but its own.
The positions of lines, bars and ticks of its two charts (in SVG user units) are computed here and
only drawn by `charts.html`. A value that is missing or not finite leaves a gap, never a zero.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePath
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from melodac.errors import OutputError
from melodac.files import whole_file
from melodac.report.page_content import CodebookEntropy, CurvePoint, ListeningPage

WIDTH = 460.0
HEIGHT = 250.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 448.0, 14.0, 212.0

_BAR_SHARE = 0.68  # of the room of one codebook
_MARK_SHARE = 0.92


@dataclass(frozen=True)
class Tick:
    """Labelled tick on an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class CurveDrawing:
    """Geometry of the training curve: cross-entropy over updates."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    train_path: str
    validation_path: str
    validation_dots: tuple[tuple[float, float], ...]
    summary: str


@dataclass(frozen=True)
class Bar:
    """Bar of one codebook for the model, with marks for baselines; None where unmeasured."""

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
    """Geometry of the bar chart: cross-entropy by codebook, with baselines."""

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
    """Shorten `left 0` to `L0`, since eighteen labels share one axis."""
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
    """Return round ticks that enclose the data, and the map from data to page coordinates."""
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
    """Return an SVG path through the measured points.

    Validation is measured at few updates on purpose, so its path bridges gaps.
    """
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


VERDICT_NOTES = {
    "ok": "no detector found a fault",
    "silent": "RMS level under \N{MINUS SIGN}50 dBFS",
    "clipped": "more than one sample in a thousand at full scale",
    "noise": "no moment leads to the next, and no tone is held",
    "static": "one sound stands still, or is held under noise",
    "looping": "more than half of the code sequences were heard before",
    "truncated": "shorter than was asked for",
}
"""Meaning of each label of the detectors; other labels are shown without an explanation."""


PROXY_NOTES = {
    "log_mel": "level of 40 bands: mean, spread and change, in dB",
    "chroma": "pitch classes, and how long they stay the same",
    "onset_rate": "onsets a second",
    "tempo": "how regularly onsets come back",
    "tonal_share": "share of time in which a tone is held",
    "hold": "how long tones are held, in seconds",
}
"""Meaning of each proxy of the ear; others are shown without an explanation."""


def write_listening_page(path: Path, page: ListeningPage) -> None:
    """Write the page under a temporary name and rename it, so that no reader sees half of it.

    Args:
        path: File to write, usually `index.html`; its folder holds the clips' files.
        page: Content of the page.

    Raises:
        OutputError: If there is no clip, a clip's file is missing or empty, or the page cannot be
            written.
    """
    _check_files(path.parent, page)
    text = render_listening_page(page)
    try:
        with whole_file(path, is_synced=False) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(
            f"cannot write the listening page {path}: {error.strerror or error}; "
            "check that the folder exists, can be written and has space"
        ) from error


def render_listening_page(page: ListeningPage) -> str:
    """Render the page as HTML; equal input gives equal bytes."""
    script = _resource("listening_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("listening_page.html")
        .render(
            page=page,
            curve=draw_curve(page.curve),
            bars=draw_bars(page.codebooks),
            verdict_notes=VERDICT_NOTES,
            proxy_notes=PROXY_NOTES,
            style=Markup(_resource("listening_page.css")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # jinja leaves the values of this mapping untyped
    environment.filters.update(  # pyright: ignore[reportUnknownMemberType]
        address=_address,
        clock=_clock,
        decibels=_decibels,
        distance=_distance,
        temperature=_temperature_note,
    )
    return environment


def _check_files(folder: Path, page: ListeningPage) -> None:
    clips = [clip for rung in page.rungs for clip in rung.clips]
    if not clips:
        raise OutputError(
            "a listening page needs at least one clip: got none; a run without sound has failed"
        )
    for path in (part for clip in clips for part in (clip.audio, clip.picture)):
        whole = folder / path
        if not whole.is_file() or not whole.stat().st_size:
            raise OutputError(
                f"a clip's file is missing or empty: {whole}; "
                "write sound and pictures before the page"
            )


def _resource(name: str) -> str:
    return files("melodac.report").joinpath(name).read_text(encoding="utf-8")


def _address(path: PurePath) -> str:
    """Return a relative URL; a name may hold `#`, `?`, `%` or look like a scheme."""
    return "./" + quote(path.as_posix(), safe="/")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _decibels(level: float | None) -> str:
    return "\N{EN DASH}" if level is None else f"{level:.1f}".replace("-", "\N{MINUS SIGN}")


def _distance(value: float | None) -> str:
    """Format a distance with three significant digits."""
    if value is None:
        return "\N{EN DASH}"
    digits = max(0, 2 - max(0, math.floor(math.log10(abs(value))))) if value else 2
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _temperature_note(temperature: float | None) -> str:
    """Describe in words how a temperature changes the odds."""
    if temperature is None:
        return "no sampling"
    if temperature == 0:
        return "the likeliest code, whatever the seed"
    if temperature == 1:
        return "the model's own odds"
    return "likely codes favoured" if temperature < 1 else "unlikely codes favoured"
