"""Chordal layers: step patterns over voice-led chords.

Symbols: `x` the chord, `X` accented, `o` soft, `r` rolled, `h` all but its lowest note, `t` its top
note, `b` the bass note below, `B` bass and chord, `p` root, fifth and octave, `0` to `7` one voice
counted from the bottom (past the top: the next octave). What is held over a change of chord is
struck again on the change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from data.sample.compose.harmony import Chord, chord_after, chord_at, voice
from data.sample.compose.instruments import Instrument
from data.sample.compose.rhythm import Strike, strikes
from data.sample.compose.score import Note

_ROLL_BEATS = 0.06
_RING_BEATS = 2.0


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bars of steps; `rings` lets single voices sound on into the chord."""

    bars: tuple[str, ...]
    rings: bool = False
    velocity: int = 78
    gate: float = 0.95


PATTERNS = {
    "hold": Pattern(("x",), gate=1.0, velocity=70),
    "halves": Pattern(("xx",), gate=0.98, velocity=72),
    "quarters": Pattern(("xxxx",), gate=0.92),
    "ballad": Pattern(("b0213213", "b0213432"), rings=True, velocity=66),
    "ballad chords": Pattern(("B---x-o-B---x-oo",), velocity=70),
    "waltz ballad": Pattern(("b02132", "b02431"), rings=True, velocity=66),
    "lofi": Pattern(("r------.x---o-..", "r-----.x--..o---"), velocity=72),
    "lofi arp": Pattern(("0.1.2.3.2.1.3.2.",), rings=True, velocity=64),
    "house": Pattern(("x..x..x...x..x..", "x..x..x...x.x..x"), gate=0.8, velocity=88),
    "off beats": Pattern(("..x-..x-..x-..x-",), gate=0.8, velocity=82),
    "charleston": Pattern(("x-...x--", "...x--x.", "x-...x..", ".x-..x--"), velocity=74),
    "jazz waltz": Pattern(("x-.x--", "..x-.x"), velocity=74),
    "bossa": Pattern(("B-x-bx.x", "b.x-B-x."), velocity=72, gate=0.85),
    "funk": Pattern(("x.oo..x..oxo..xo", "x.oo..xo..x.xoxo"), gate=0.6, velocity=86),
    "stabs": Pattern(("x.......x.x.....", "x..x......xx...."), gate=0.8, velocity=92),
    "skank": Pattern(("..x...x...x...x.",), gate=0.7, velocity=84),
    "bubble": Pattern(("..x.o.x.o.x.o.x.",), gate=0.6, velocity=74),
    "strum": Pattern(("X-o-x-ooo-x-x-oo",), velocity=76),
    "strum waltz": Pattern(("b-x-xo",), velocity=78),
    "oompah": Pattern(("b-x-x-",), gate=0.7, velocity=78),
    "marcato": Pattern(("X.x.x.x.", "X.x.x.xx"), gate=0.7, velocity=82),
    "arp 16": Pattern(("0123412301234123",), gate=0.9, velocity=76),
    "arp wide": Pattern(("0214203102142031", "0214203502142031"), gate=0.9, velocity=76),
    "trance": Pattern(("x.xx.xx.x.xx.xx.",), gate=0.8, velocity=84),
    "phase": Pattern(("02130213", "02130214"), gate=0.9, velocity=80),
    "phase 16": Pattern(("0213.1320.123.12",), gate=0.95, velocity=80),
    "phase slow": Pattern(("3.1.4.2.3.1.2.4.",), rings=True, velocity=66),
    "five": Pattern(("0213203124", "0213203152"), rings=True, velocity=78),
    "prelude": Pattern(("b0123123b0123123",), velocity=74),
    "continuo": Pattern(("r---x---x---x-x-",), velocity=74),
    "triplets": Pattern(("x-ox-ox-ox-o",), velocity=76),
    "shuffle": Pattern(("x.xo.xx.", "x.xo.x.x"), gate=0.7, velocity=80),
    "montuno": Pattern(("X.xx.xx.x.xx.x.x", ".xx.x.x.x.xx.x.x"), gate=0.75, velocity=84),
    "offbeat march": Pattern((".x.x.x.x",), gate=0.5, velocity=78),
    "power": Pattern(("p-pppp-pp-pppp-p",), gate=0.9, velocity=92),
    "power hold": Pattern(("p-----p-p-------",), gate=0.98, velocity=92),
    "highlife": Pattern(("0.21.2310.21.423", "3.21.2310.24.231"), gate=0.9, velocity=80),
    "slow arp": Pattern(("0-1-2-3-", "0-2-4-3-"), rings=True, velocity=64),
    "waltz arp": Pattern(("012321", "023423"), rings=True, velocity=70),
    "ostinato": Pattern(("x.xxx.xxx.xxx.xx",), gate=0.5, velocity=76),
    "chip arp": Pattern(("0120120120120121",), gate=0.95, velocity=78),
}


def _span(strike: Strike, chords: tuple[Chord, ...]) -> Iterator[tuple[float, float, Chord]]:
    """Pieces of a strike, one a chord; a short upbeat before a change belongs to the next chord."""
    start, end = strike.start_beats, strike.start_beats + strike.length_beats
    chord = chord_at(chords, start)
    if chord.end_beats - start <= 0.5 and end > chord.end_beats + 1e-6:
        yield start, end, chord_after(chords, chord)
        return
    while end > chord.end_beats + 1e-6:
        yield start, chord.end_beats, chord
        start = chord.end_beats
        chord = chord_after(chords, chord)
        if chord.start_beats == 0:
            return
    yield start, end, chord


def _bass_pitch(chord: Chord, below: int, low: int) -> int:
    pitch = below - 1 - (below - 1 - chord.bass) % 12
    pitch = pitch - 12 if pitch > 50 and pitch - 12 >= low else pitch
    return pitch if pitch >= low else pitch + 12


def _pitches(symbol: str, chord: Chord, voicing: tuple[int, ...], low: int) -> list[int]:
    if symbol.isdigit():
        octave, index = divmod(int(symbol), len(voicing))
        return [voicing[index] + 12 * octave]
    if symbol == "p":
        root = low + (chord.root - low) % 12
        return [root, root + 7, root + 12]
    chosen = {"h": voicing[1:], "t": voicing[-1:], "b": ()}.get(symbol, voicing)
    bass = [_bass_pitch(chord, voicing[0], low)] if symbol in "bB" else []
    return [*bass, *chosen]


def _velocity(symbol: str, base: int) -> int:
    return base + {"X": 12, "o": -20, "b": 4, "B": 6}.get(symbol, 0)


def comp(
    name: str,
    chords: tuple[Chord, ...],
    instrument: Instrument,
    *,
    centre: int,
    is_rootless: bool,
    beats_per_bar: int,
    tempo_bpm: int,
) -> list[Note]:
    """Notes of the pattern `name` over voice-led chords around pitch `centre`."""
    pattern = PATTERNS[name]
    voicings = dict(zip(chords, voice(chords, centre, is_rootless), strict=True))
    strum = instrument.strum_s * tempo_bpm / 60
    num_bars = round(chords[-1].end_beats / beats_per_bar)
    notes: list[Note] = []
    for strike in strikes(pattern.bars, beats_per_bar, num_bars):
        for start, end, chord in _span(strike, chords):
            pitches = _pitches(strike.symbol, chord, voicings[chord], instrument.low)
            if pattern.rings:
                end = max(end, min(chord.end_beats, start + _RING_BEATS))
            lag = _ROLL_BEATS if strike.symbol == "r" else strum
            for place, pitch in enumerate(pitches):
                late = start + place * lag
                length = max(0.08, (end - start) * pattern.gate - place * lag)
                velocity = _velocity(strike.symbol, pattern.velocity)
                notes.append(Note(late, length, pitch, velocity + 3 * (pitch == pitches[-1])))
    return notes
