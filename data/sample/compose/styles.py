"""The sample music: five styles, and a seeded draw of many compositions in each.

Compositions of a style share a band of few players, a range of tempi and a harmonic language; those
of all styles share eight neighbouring keys. What a model learns from some therefore helps with
others. Titles, keys, tempi, chords and tunes are drawn; no composition is written by hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from data.sample.compose.arrange import Composition, arrange
from data.sample.compose.bands import MACHINE, Genre, bass, comp, drums, lead
from data.sample.compose.grammar import progression
from data.sample.compose.harmony import parse_key
from data.sample.compose.rhythm import Feel
from data.sample.compose.score import Score

SEED = 20
COMPOSITIONS_PER_STYLE = 51
_KEYS = (
    "C major", "G major", "F major", "D major", "A minor", "E minor", "D minor", "B minor",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """What compositions of a style have in common; `tempi_bpm` are the slowest and the fastest."""

    genre: Genre
    tempi_bpm: tuple[int, int]
    num_bars: int
    chords_per_bar: int
    colour: str


STYLES = (
    Style(
        Genre(
            "piano ballad",
            (lead("piano", "ballad", 1), comp("piano", "ballad", -4, 56)),
            (lead("piano", "ballad", 1), comp("piano", "ballad chords", -4, 56)),
            Feel(jitter_ms=3.0),
            room=0.4,
        ),
        (60, 72),
        num_bars=4,
        chords_per_bar=2,
        colour="open",
    ),
    Style(
        Genre(
            "lo-fi hip hop",
            (
                lead("vibraphone", "lofi"),
                comp("electric piano", "lofi", -3),
                bass("upright bass", "lofi"),
                drums("drums", "lofi", -5),
            ),
            (
                lead("piano", "lofi", 1),
                comp("electric piano", "lofi", -3),
                bass("upright bass", "lofi"),
                drums("drums", "boom bap", -5),
            ),
            Feel(0.58, 0.5, 4.0),
            "pentatonic",
            0.25,
        ),
        (62, 74),
        num_bars=4,
        chords_per_bar=2,
        colour="sevenths",
    ),
    Style(
        Genre(
            "jazz trio",
            (
                lead("piano", "swing", 1),
                bass("upright bass", "walk", -2),
                drums("jazz drums", "swing", -12),
                comp("piano", "charleston", -7, 56),
            ),
            (
                lead("vibraphone", "swing"),
                bass("upright bass", "walk", -2),
                drums("jazz drums", "swing", -12),
            ),
            Feel(0.64, 1.0, 4.0),
            room=0.3,
        ),
        (120, 144),
        num_bars=8,
        chords_per_bar=1,
        colour="ninths",
    ),
    Style(
        Genre(
            "chamber waltz",
            (
                lead("violin", "waltz"),
                comp("harp", "waltz arp", -3, 60),
                bass("cello", "waltz", -6),
            ),
            (
                lead("clarinet", "waltz"),
                comp("pizzicato strings", "waltz arp", -3, 62),
                bass("cello", "waltz", -6),
            ),
            Feel(jitter_ms=4.0),
            room=0.45,
            beats_per_bar=3,
        ),
        (92, 108),
        num_bars=8,
        chords_per_bar=1,
        colour="triads",
    ),
    Style(
        Genre(
            "synthwave",
            (
                lead("saw lead", "synth", level_db=-2),
                comp("polysynth", "quarters", -6, 64),
                bass("synth bass", "eighths", -1),
                drums("electronic drums", "night drive", -5),
            ),
            (
                lead("square lead", "synth", level_db=-2),
                comp("polysynth", "lofi arp", -6, 64),
                bass("synth bass", "octaves", -1),
                drums("electronic drums", "night drive", -5),
            ),
            MACHINE,
            room=0.4,
        ),
        (120, 132),
        num_bars=8,
        chords_per_bar=1,
        colour="triads",
    ),
)

_FIRST_WORDS = (
    "amber", "blue", "brass", "bright", "broken", "cold", "copper", "distant", "early", "empty",
    "gentle", "glass", "golden", "grey", "hidden", "late", "long", "low", "open", "paper", "quiet",
    "silver", "slow", "small", "velvet", "warm",
)  # fmt: skip
_SECOND_WORDS = (
    "avenue", "bridge", "corner", "door", "evening", "field", "garden", "harbour", "island",
    "lantern", "letter", "meadow", "morning", "orchard", "river", "shore", "stair", "station",
    "street", "summer", "tower", "valley", "window", "winter",
)  # fmt: skip


def draw_compositions(seed: int = SEED) -> Iterator[Composition]:
    """The compositions of all styles in turn, each under a title of its own."""
    titles = [f"{first} {second}" for first in _FIRST_WORDS for second in _SECOND_WORDS]
    Random(f"{seed} titles").shuffle(titles)
    for place in range(COMPOSITIONS_PER_STYLE * len(STYLES)):
        yield _draw(titles[place], STYLES[place % len(STYLES)], seed)


def _draw(title: str, style: Style, seed: int) -> Composition:
    rng = Random(f"{seed} {title}")
    key = parse_key(rng.choice(_KEYS))
    return Composition(
        group=title,
        genre=style.genre,
        band=rng.choice((style.genre.full, style.genre.other)),
        key=key,
        tempo_bpm=rng.randint(*style.tempi_bpm),
        progression=progression(
            style.num_bars,
            chords_per_bar=style.chords_per_bar,
            is_minor=key.is_minor,
            colour=style.colour,
            rng=rng,
        ),
    )


def sample_scores(seed: int = SEED) -> Iterator[Score]:
    """The scores of all compositions."""
    return (arrange(composition, seed) for composition in draw_compositions(seed))
