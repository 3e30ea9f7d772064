"""A composition in, a score out; the same seed gives the same notes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from data.sample.compose.bands import Genre, Layer
from data.sample.compose.bass import bass_line
from data.sample.compose.comping import comp
from data.sample.compose.drums import drum_part
from data.sample.compose.harmony import Chord, parse_progression
from data.sample.compose.instruments import INSTRUMENTS, Instrument
from data.sample.compose.melody import Theme, melody
from data.sample.compose.rhythm import humanise
from data.sample.compose.score import Key, Note, Part, Score


@dataclass(frozen=True, slots=True)
class Composition:
    """What a composer decides before the notes: who plays, in which key, over which chords.

    `progression` is written in C major or A minor and transposed to `key`.
    """

    group: str
    genre: Genre
    band: tuple[Layer, ...]
    key: Key
    tempo_bpm: int
    progression: str

    @property
    def chords(self) -> tuple[Chord, ...]:
        """Chords of the progression in the key of the composition."""
        return parse_progression(self.progression, self.key, self.genre.beats_per_bar)


def _fitted(notes: Iterable[Note], instrument: Instrument) -> list[Note]:
    """Notes moved by octaves into the range of the instrument."""
    fitted: list[Note] = []
    for note in notes:
        pitch = note.pitch
        pitch += 12 * max(0, -((pitch - instrument.low) // 12))
        pitch -= 12 * max(0, -((instrument.high - pitch) // 12))
        fitted.append(replace(note, pitch=pitch))
    return fitted


def _play(layer: Layer, composition: Composition, *, has_bass: bool, rng: Random) -> list[Note]:
    """Notes of one layer, before the human touch."""
    instrument, chords = INSTRUMENTS[layer.instrument], composition.chords
    beats, key = composition.genre.beats_per_bar, composition.key
    if layer.role == "drums":
        return drum_part(layer.pattern, beats, round(chords[-1].end_beats / beats))
    if layer.role == "bass":
        return bass_line(layer.pattern, chords, instrument, key=key, beats_per_bar=beats, rng=rng)
    if layer.role == "lead":
        theme = Theme(layer.pattern, composition.genre.scale)
        return melody(
            theme, chords, instrument, key=key, beats_per_bar=beats, octave=layer.octave, rng=rng
        )
    return comp(
        layer.pattern,
        chords,
        instrument,
        centre=layer.centre,
        is_rootless=has_bass,
        beats_per_bar=beats,
        tempo_bpm=composition.tempo_bpm,
    )


def arrange(composition: Composition, seed: int) -> Score:
    """The score of a composition."""
    genre = composition.genre
    has_bass = any(layer.role == "bass" for layer in composition.band)
    parts: list[Part] = []
    for place, layer in enumerate(composition.band):
        tune = Random(f"{seed} {composition.group} {layer.role}")
        touch = Random(f"{seed} {composition.group} {place}")
        notes = _play(layer, composition, has_bass=has_bass, rng=tune)
        instrument = INSTRUMENTS[layer.instrument]
        if not instrument.is_drums:
            notes = _fitted(notes, instrument)
        played = humanise(notes, genre.feel, composition.tempo_bpm, touch)
        parts.append(Part(layer.role, instrument, played, layer.level_db))
    return Score(
        group=composition.group,
        genre=genre.name,
        key=composition.key,
        tempo_bpm=composition.tempo_bpm,
        beats_per_bar=genre.beats_per_bar,
        num_bars=composition.progression.count("|") + 1,
        is_swung=genre.feel.swing > 0.56,
        room=genre.room,
        parts=tuple(parts),
    )
