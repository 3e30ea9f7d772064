"""A composition and a variation in, a score out; the same seed gives the same notes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from data.sample.compose.bands import Genre, Layer
from data.sample.compose.bass import bass_line
from data.sample.compose.catalogue import COMPOSITIONS, GENRES, Composition
from data.sample.compose.comping import comp
from data.sample.compose.drums import drum_part
from data.sample.compose.harmony import Chord, parse_key, parse_progression
from data.sample.compose.instruments import INSTRUMENTS, Instrument
from data.sample.compose.melody import Theme, melody
from data.sample.compose.rhythm import humanise
from data.sample.compose.score import Key, Note, Part, Score

SEED = 20


def _third_band(genre: Genre, third: str) -> tuple[Layer, ...]:
    """The layers of a composition's own variation."""
    if third == "no drums":
        return tuple(layer for layer in genre.full if layer.role != "drums")
    if third == "register":
        return tuple(
            replace(layer, octave=layer.octave - 1, centre=layer.centre + 7) for layer in genre.full
        )
    lead = [layer for layer in genre.other if layer.role == "lead"]
    return (*lead, *(layer for layer in genre.full if layer.role != "lead"))


def _fitted(notes: Iterable[Note], instrument: Instrument) -> list[Note]:
    """Notes moved by octaves into the range of the instrument."""
    fitted: list[Note] = []
    for note in notes:
        pitch = note.pitch
        pitch += 12 * max(0, -((pitch - instrument.low) // 12))
        pitch -= 12 * max(0, -((instrument.high - pitch) // 12))
        fitted.append(replace(note, pitch=pitch))
    return fitted


def _play(
    layer: Layer,
    composition: Composition,
    chords: tuple[Chord, ...],
    key: Key,
    *,
    has_bass: bool,
    rng: Random,
) -> list[Note]:
    """Notes of one layer, before the human touch."""
    instrument, beats = INSTRUMENTS[layer.instrument], composition.beats_per_bar
    if layer.role == "drums":
        return drum_part(layer.pattern, beats, round(chords[-1].end_beats / beats))
    if layer.role == "bass":
        return bass_line(layer.pattern, chords, instrument, key=key, beats_per_bar=beats, rng=rng)
    if layer.role == "lead":
        theme = Theme(layer.pattern, GENRES[composition.genre].scale)
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


def arrange(composition: Composition, variation: str, seed: int = SEED) -> Score:
    """The score of one variation: `full`, `other` or the composition's own third one."""
    genre, key = GENRES[composition.genre], parse_key(composition.key)
    bands = {"full": genre.full, "other": genre.other}
    band = bands.get(variation) or _third_band(genre, composition.third)
    is_new = variation == "reharmonised"
    text = composition.reharmonisation if is_new else composition.progression
    chords = parse_progression(text, key, composition.beats_per_bar)
    has_bass = any(layer.role == "bass" for layer in band)
    parts: list[Part] = []
    for place, layer in enumerate(band):
        tune = Random(f"{seed} {composition.group} {layer.role}")
        touch = Random(f"{seed} {composition.group} {variation} {place}")
        notes = _play(layer, composition, chords, key, has_bass=has_bass, rng=tune)
        instrument = INSTRUMENTS[layer.instrument]
        if not instrument.is_drums:
            notes = _fitted(notes, instrument)
        played = humanise(notes, genre.feel, composition.tempo_bpm, touch)
        parts.append(Part(layer.role, instrument, played, layer.level_db))
    return Score(
        group=composition.group,
        variation=variation,
        genre=genre.name,
        key=key,
        tempo_bpm=composition.tempo_bpm,
        beats_per_bar=composition.beats_per_bar,
        num_bars=text.count("|") + 1,
        is_swung=genre.feel.swing > 0.56,
        room=genre.room,
        parts=tuple(parts),
    )


def all_scores(seed: int = SEED) -> Iterator[Score]:
    """Every variation of every composition, in the order of the catalogue."""
    for composition in COMPOSITIONS.values():
        for variation in ("full", "other", composition.third):
            yield arrange(composition, variation, seed)
