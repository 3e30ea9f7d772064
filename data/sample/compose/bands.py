"""What a genre is: which players sit in the band and what each of them plays.

A layer names a role, an instrument and a pattern of that role. A genre has two bands.
"""

from dataclasses import dataclass

from data.sample.compose.rhythm import Feel


@dataclass(frozen=True, slots=True)
class Layer:
    """One player. `level_db` is relative to the lead; `centre` the pitch chords gather around."""

    role: str
    instrument: str
    pattern: str
    level_db: float = 0.0
    centre: int = 62
    octave: int = 0


@dataclass(frozen=True, slots=True)
class Genre:
    """Two bands, how they feel the beat, the tune's scale, the room's size (0 to 1), the meter."""

    name: str
    full: tuple[Layer, ...]
    other: tuple[Layer, ...]
    feel: Feel
    scale: str = "key"
    room: float = 0.45
    beats_per_bar: int = 4


def lead(instrument: str, rhythm: str, octave: int = 0, level_db: float = 0.0) -> Layer:
    """The tune."""
    return Layer("lead", instrument, rhythm, level_db, octave=octave)


def comp(instrument: str, pattern: str, level_db: float = -5.0, centre: int = 60) -> Layer:
    """Chords in a rhythm."""
    return Layer("comp", instrument, pattern, level_db, centre)


def pad(instrument: str, level_db: float = -10.0, centre: int = 64) -> Layer:
    """Held chords."""
    return Layer("pad", instrument, "hold", level_db, centre)


def bass(instrument: str, pattern: str, level_db: float = -3.0) -> Layer:
    """A bass line."""
    return Layer("bass", instrument, pattern, level_db)


def drums(kit: str, groove: str, level_db: float = -3.0) -> Layer:
    """A groove."""
    return Layer("drums", kit, groove, level_db)


SWING = Feel(0.64, 1.0, 6.0)
LAZY = Feel(0.58, 0.5, 9.0)
TIGHT = Feel(jitter_ms=2.0)
MACHINE = Feel(jitter_ms=0.0, accent=0.4)
LOOSE = Feel(jitter_ms=8.0)
