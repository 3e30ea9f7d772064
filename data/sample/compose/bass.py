"""Bass lines that follow the harmony.

Symbols: `1` bass note of the chord, `8` its octave, `3` `5` `7` tones of the chord, `a` a half step
into the next chord, `g` a ghost note, `w` a walking note.
"""

from random import Random

from data.sample.compose.harmony import Chord, chord_after, chord_at, scale_over
from data.sample.compose.instruments import Instrument
from data.sample.compose.rhythm import Strike, strikes
from data.sample.compose.score import Key, Note

_CENTRE = 38

PATTERNS = {
    "hold": ("1",),
    "halves": ("1-------5-------",),
    "two feel": ("1---5---",),
    "pop": ("1-----1-1---5-a-",),
    "lofi": ("1-----.11-..5-a.", "1-----.1..8-5-a."),
    "house": ("..1-..1-..1-..8-", "..1-..1-..1-.g8-"),
    "deep": ("1--1..8-..1-.1a-", "1--1..8-..5-.7a-"),
    "eighths": ("1111111a", "1111115a"),
    "synth eighths": ("1.1.1.1.1.1.8.1.",),
    "octaves": ("1.8.1.8.1.8.1.8.", "1.8.1.8.1.8.5.a."),
    "rolling": (".111.111.111.118",),
    "walk": ("wwww",),
    "walk eighths": ("wwwwwwww",),
    "walk waltz": ("www",),
    "waltz": ("1--",),
    "waltz fifths": ("1--", "5--"),
    "bossa": ("1--51--5", "1--55--a"),
    "funk": ("1..g.1.8..g1.57a", "1.g..1.8.g.1.7.8"),
    "reggae": ("1--.3-5-.1-.3.5.", "..1-3-5-..1-5-3-"),
    "tumbao": ("...5--1-", "-..5--1-"),
    "tango": ("1--51-5-",),
    "boogie": ("1-3-5-7-",),
    "march": ("1-5-1-5-",),
    "trap": ("1-------.....1-.", "1-----1-....8-a-"),
    "break": ("1-.1..8.1.g.7-8.", "1-.1..8...5-7-a-"),
    "highlife": ("1-.5-.8-..5-3-1-",),
    "five": ("1---.5-1--",),
    "triplets": ("1----11--5-a",),
}


def _nearest(pitch_class: int, previous: int, instrument: Instrument, top: int = 52) -> int:
    top = max(top, instrument.low + 11)
    options = [p for p in range(instrument.low, top + 1) if p % 12 == pitch_class % 12]
    return min(options, key=lambda p: (abs(p - previous) + 0.7 * abs(p - _CENTRE), p))


def _tone(chord: Chord, symbol: str) -> int:
    """Pitch class of the third, fifth or seventh; the fifth where the chord has no such tone."""
    place = {"3": 1, "5": 2, "7": 3}[symbol]
    if place == 3 and len(chord.tones) == 3:
        return chord.root
    return chord.tones[min(place, len(chord.tones) - 1)]


def _approach(following: int, previous: int, rng: Random) -> int:
    if previous == following:
        return following + rng.choice((-1, 1, -2))
    side = 1 if previous > following else -1
    return following + (side if previous != following + side else -side)


def _walk(
    strike: Strike, chords: tuple[Chord, ...], key: Key, *, played: list[int], rng: Random
) -> int:
    """Root on a change, half step before the next, chord and scale tones on the way there."""
    previous = played[-1]
    chord = chord_at(chords, strike.start_beats)
    following = _toward(chord_after(chords, chord).bass, previous)
    left = chord.end_beats - strike.start_beats - strike.length_beats
    if strike.start_beats == chord.start_beats:
        return previous if previous % 12 == chord.bass else _toward(chord.bass, previous)
    if left < 1e-6:
        return _approach(following, previous, rng)
    allowed = chord.tones if rng.random() < 0.6 else tuple(scale_over(chord, key))
    options = [p for p in range(previous - 6, previous + 7) if p % 12 in allowed and p != previous]
    options = [p for p in options if 28 <= p <= 50 and p not in played[-3:]] or options
    pull = previous + (4 if previous < _CENTRE + 1 else -4)
    return min(options, key=lambda p: (abs(p - pull) + rng.random(), p))


def _toward(pitch_class: int, previous: int) -> int:
    options = [p for p in range(28, 53) if p % 12 == pitch_class % 12]
    return min(options, key=lambda p: (abs(p - previous) + 0.4 * abs(p - _CENTRE), p))


def bass_line(
    name: str,
    chords: tuple[Chord, ...],
    instrument: Instrument,
    *,
    key: Key,
    beats_per_bar: int,
    rng: Random,
) -> list[Note]:
    """Notes of the pattern `name`."""
    notes: list[Note] = []
    pitch = _CENTRE
    num_bars = round(chords[-1].end_beats / beats_per_bar)
    for strike in strikes(PATTERNS[name], beats_per_bar, num_bars):
        chord = chord_at(chords, strike.start_beats)
        velocity, gate = 92, 0.96 if strike.length_beats >= 2 else 0.9
        if strike.symbol == "w":
            pitch = _walk(strike, chords, key, played=[_CENTRE, *(n.pitch for n in notes)], rng=rng)
        elif strike.symbol == "a":
            pitch = _approach(_toward(chord_after(chords, chord).bass, pitch), pitch, rng)
        elif strike.symbol in "357" and strike.start_beats > chord.start_beats:
            pitch = _nearest(_tone(chord, strike.symbol), pitch, instrument)
        else:
            pitch = _nearest(chord.bass, _CENTRE, instrument, top=46)
            pitch += 12 * (strike.symbol == "8")
        if strike.symbol == "g":
            velocity, gate = 52, 0.5
        length = min(strike.length_beats, chord.end_beats - strike.start_beats)
        notes.append(Note(strike.start_beats, length * gate, pitch, velocity))
    return notes
