"""The listening page: one HTML file with its style and script inside, sound and pictures beside it.

It opens from disk, without a server or a network. Everything that comes from files and tags is text
to the template, never markup, and the page forbids any script but its own.
"""

import base64
import hashlib
import math
from importlib.resources import files
from pathlib import Path, PurePath
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from melodac.errors import OutputError
from melodac.report.charts import draw_bars, draw_curve
from melodac.report.page_content import ListeningPage

VERDICT_NOTES = {
    "ok": "no detector found a fault",
    "silent": "RMS level under \N{MINUS SIGN}50 dBFS",
    "clipped": "more than one sample in a thousand at full scale",
    "noise": "no moment leads to the next, and no tone is held",
    "static": "one sound stands still, or is held under noise",
    "looping": "more than half of the code sequences were heard before",
    "truncated": "shorter than was asked for",
}
"""What each label of the detectors means; other labels are shown without an explanation."""


PROXY_NOTES = {
    "log_mel": "level of 40 bands: mean, spread and change, in dB",
    "chroma": "pitch classes, and how long they stay the same",
    "onset_rate": "onsets a second",
    "tempo": "how regularly onsets come back",
    "tonal_share": "share of time in which a tone is held",
    "hold": "how long tones are held, in seconds",
}
"""What each proxy of the ear listens for; others are shown without an explanation."""


def write_listening_page(path: Path, page: ListeningPage) -> None:
    """Write the page; a reader never sees half of it under its final name.

    Args:
        path: File to write, usually `index.html`; its folder holds the clips' files.
        page: What to show.

    Raises:
        OutputError: If there is no clip, a clip's file is missing or empty, or the page cannot be
            written.
    """
    _check_files(path.parent, page)
    text = render_listening_page(page)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write the listening page {path}: {error.strerror or error}; "
            "check that the folder exists, can be written and has space"
        ) from error


def render_listening_page(page: ListeningPage) -> str:
    """The page as HTML; equal input gives equal bytes."""
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
    """A relative URL; a name may hold `#`, `?`, `%` or look like a scheme."""
    return "./" + quote(path.as_posix(), safe="/")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _decibels(level: float | None) -> str:
    return "\N{EN DASH}" if level is None else f"{level:.1f}".replace("-", "\N{MINUS SIGN}")


def _distance(value: float | None) -> str:
    """Three significant digits and no more than the eye compares."""
    if value is None:
        return "\N{EN DASH}"
    digits = max(0, 2 - max(0, math.floor(math.log10(abs(value))))) if value else 2
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _temperature_note(temperature: float | None) -> str:
    """What a temperature does to the odds, in words."""
    if temperature is None:
        return "no sampling"
    if temperature == 0:
        return "the likeliest code, whatever the seed"
    if temperature == 1:
        return "the model's own odds"
    return "likely codes favoured" if temperature < 1 else "unlikely codes favoured"
