"""Practice music for a codec: any genre, with any instrument, in any key, register and room.

A codec must reproduce more than the sample music holds, so here the engine plays with all General
MIDI programs, two soundfonts, and random tempi, keys, registers, dynamics, tunings, levels and
rooms. Pieces of the split `held_out` are played by `HELD_OUT` alone, which no other piece uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from data.sample.compose import acoustic, electric
from data.sample.compose.arrange import Composition, arrange
from data.sample.compose.bands import Genre, Layer
from data.sample.compose.grammar import COLOURS, progression
from data.sample.compose.instruments import INSTRUMENTS, Instrument
from data.sample.compose.score import Key, Note, Score, Take

GENRES: tuple[Genre, ...] = (*acoustic.GENRES, *electric.GENRES)
HELD_OUT = (
    "honky-tonk piano", "xylophone", "reed organ", "acoustic guitar", "picked bass", "viola",
    "trombone", "english horn", "shakuhachi", "charang lead", "bowed pad", "banjo",
    "brushed drums",
)  # fmt: skip
"""One instrument of nearly every family, to test a codec on that was trained without them."""

_MIN_S, _MAX_S = 20.0, 40.0
_BASSES = range(32, 40)
_EFFECTS, _EFFECT_WEIGHT = range(119, 128), 0.25
"""Applause, birds and the like: some of them, not as many as of every other family."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: what is played, and how it is recorded."""

    score: Score
    take: Take
    split: str
    soundfont: Path

    @property
    def file_name(self) -> str:
        """Path of its audio in the folder."""
        return f"{self.split}/{self.score.group}.flac"


def _player(layer: Layer, pool: list[Instrument], rng: Random) -> Layer:
    """The layer with an instrument of the pool: often its own, a bass below, else any."""
    own = INSTRUMENTS[layer.instrument]
    fitting = [player for player in pool if player.is_drums == own.is_drums]
    if layer.role == "bass" and rng.random() < 0.7:
        fitting = [player for player in fitting if player.program in _BASSES]
    weights = [_EFFECT_WEIGHT if player.program in _EFFECTS else 1.0 for player in fitting]
    drawn = rng.choices(fitting, weights)[0]
    player = own if own in pool and rng.random() < 0.25 else drawn
    return replace(
        layer,
        instrument=player.name,
        octave=layer.octave + rng.choice((-2, -1, -1, 0, 0, 0, 0, 1)),
        centre=layer.centre + rng.choice((-12, -7, -4, 0, 0, 4, 7, 14)),
        level_db=layer.level_db * 0.6 + rng.uniform(-6, 3),
    )


def _played(notes: tuple[Note, ...], rng: Random) -> tuple[Note, ...]:
    """Notes at another dynamic level, some of them left out."""
    touch, density = rng.uniform(0.45, 1.25), rng.choice((1.0, 1.0, 0.85, 0.6))
    return tuple(
        replace(note, velocity=min(127, max(8, round(note.velocity * touch))))
        for note in notes
        if rng.random() < density
    )


def _piece(number: int, seed: int, split: str, soundfonts: tuple[Path, ...]) -> Piece:
    rng = Random(f"{seed} {split} {number}")
    genre = rng.choice(GENRES)
    pool = [p for p in INSTRUMENTS.values() if (p.name in HELD_OUT) == (split == "held_out")]
    layers = list(rng.choice((genre.full, genre.other)))
    size = rng.choices((1, 2, len(layers)), (25, 20, 55))[0]
    layers = rng.sample(layers, min(size, len(layers)))
    genre = replace(genre, room=rng.random())
    tempo_bpm = rng.randint(55, 165)
    bar_s = genre.beats_per_bar * 60 / tempo_bpm
    num_bars = max(4, round(rng.uniform(_MIN_S, _MAX_S) / bar_s))
    is_minor = rng.random() < 0.5
    composition = Composition(
        group=f"practice-{split}-{number:04d}".replace("_", "-"),
        genre=genre,
        band=tuple(_player(layer, pool, rng) for layer in layers),
        key=Key(rng.randrange(12), is_minor),
        tempo_bpm=tempo_bpm,
        progression=progression(num_bars, is_minor=is_minor, colour=rng.choice(COLOURS), rng=rng),
    )
    score = arrange(composition, seed)
    parts = tuple(replace(part, notes=_played(part.notes, rng)) for part in score.parts)
    take = Take(
        detune=rng.choice((0.0, 0.0, rng.uniform(-0.5, 0.5))),
        is_dry=rng.random() < 0.3,
        loudness_lufs=rng.uniform(-30, -13),
    )
    return Piece(replace(score, parts=parts), take, split, rng.choice(soundfonts))


def draw_pieces(minutes: float, seed: int, soundfonts: tuple[Path, ...]) -> Iterator[Piece]:
    """About `minutes` minutes of pieces for training, and a sixteenth as many held out."""
    for number in range(round(minutes * 60 / ((_MIN_S + _MAX_S) / 2))):
        if number % 16 == 3:
            yield _piece(number // 16, seed, "held_out", soundfonts)
        yield _piece(number, seed, "train", soundfonts)
