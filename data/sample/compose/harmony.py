"""Chords of a progression, and voicings that move from one to the next by the shortest way.

Progressions are written in C major or A minor, bars split by `|`, chords in a bar of equal length,
and transposed to the key of the composition: `Cmaj7 | Am7 | Dm7 G7 | C`.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from data.sample.compose.score import Key

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "m7b5": (0, 3, 6, 10),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "7sus4": (0, 5, 7, 10),
    "add9": (0, 4, 7, 2),
    "madd9": (0, 3, 7, 2),
    "9": (0, 4, 7, 10, 2),
    "maj9": (0, 4, 7, 11, 2),
    "m9": (0, 3, 7, 10, 2),
    "m11": (0, 3, 7, 10, 5),
    "69": (0, 4, 7, 9, 2),
    "13": (0, 4, 7, 10, 9),
    "7b9": (0, 4, 7, 10, 1),
    "7#9": (0, 4, 7, 10, 3),
    "maj7#11": (0, 4, 7, 11, 6),
}
_SYMBOL = re.compile(r"([A-G])([b#]?)([^/]*)(?:/([A-G])([b#]?))?")
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True, slots=True)
class Chord:
    """Pitch classes `tones` (root first, in order of the quality) over a bass, and their span."""

    start_beats: float
    length_beats: float
    tones: tuple[int, ...]
    bass: int

    @property
    def root(self) -> int:
        """Pitch class of the root."""
        return self.tones[0]

    @property
    def end_beats(self) -> float:
        """First beat after the chord."""
        return self.start_beats + self.length_beats


def _pitch_class(letter: str, accidental: str) -> int:
    return (_LETTERS[letter] + {"": 0, "b": -1, "#": 1}[accidental]) % 12


def parse_key(name: str) -> Key:
    """Key from a name such as `Eb major`."""
    tonic, mode = name.split()
    return Key(_pitch_class(tonic[0], tonic[1:]), mode == "minor")


def parse_progression(text: str, key: Key, beats_per_bar: int) -> tuple[Chord, ...]:
    """Chords of a progression written in C major or A minor, transposed to `key`.

    Raises:
        ValueError: A symbol is no chord name.
    """
    shift = key.tonic - (9 if key.is_minor else 0)
    chords: list[Chord] = []
    for bar, symbols in enumerate(text.split("|")):
        names = symbols.split()
        length = beats_per_bar / len(names)
        for place, name in enumerate(names):
            match = _SYMBOL.fullmatch(name)
            if match is None or match[3] not in _QUALITIES:
                message = f"{name!r} is no chord name; write one like C, F#m7b5 or Am/G"
                raise ValueError(message)
            root = _pitch_class(match[1], match[2]) + shift
            bass = _pitch_class(match[4], match[5]) + shift if match[4] else root
            tones = tuple((root + interval) % 12 for interval in _QUALITIES[match[3]])
            chords.append(Chord(bar * beats_per_bar + place * length, length, tones, bass % 12))
    return tuple(chords)


_start_beats = attrgetter("start_beats")


def chord_at(chords: tuple[Chord, ...], beat: float) -> Chord:
    """The chord sounding at `beat`; the loop wraps."""
    beat %= chords[-1].end_beats
    return chords[bisect_right(chords, beat + 1e-6, key=_start_beats) - 1]


def chord_after(chords: tuple[Chord, ...], chord: Chord) -> Chord:
    """The chord that follows; the loop wraps."""
    return chords[(chords.index(chord) + 1) % len(chords)]


def scale_over(chord: Chord, key: Key) -> frozenset[int]:
    """Scale of the key, bent so that it holds every tone of the chord."""
    steps = _MINOR if key.is_minor else _MAJOR
    scale = {(key.tonic + step) % 12 for step in steps}
    for tone in chord.tones:
        if tone not in scale:
            scale -= {(tone + 1) % 12, (tone - 1) % 12} - set(chord.tones)
            scale.add(tone)
    return frozenset(scale)


def _stack(tones: tuple[int, ...], low: int) -> list[int]:
    """Close position upwards from the first pitch at or above `low`."""
    pitches = [low + (tones[0] - low) % 12]
    for tone in tones[1:]:
        pitches.append(pitches[-1] + ((tone - pitches[-1]) % 12 or 12))
    return pitches


def _voiced_tones(chord: Chord, is_rootless: bool) -> tuple[int, ...]:
    """Tones a hand plays: a five-note chord loses its root where a bass has it, else its fifth."""
    tones = chord.tones
    if len(tones) > 4:
        return tones[1:] if is_rootless else (*tones[:2], *tones[3:])
    return tones


def _candidates(chord: Chord, centre: int, is_rootless: bool) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    tones = sorted(_voiced_tones(chord, is_rootless))
    for turn in range(len(tones)):
        turned = tuple(tones[turn:] + tones[:turn])
        for low in range(centre - 18, centre + 4):
            if low % 12 != turned[0]:
                continue
            close = _stack(turned, low)
            found.append(tuple(close))
            if len(close) > 3:
                found.append(tuple(sorted([*close[:-2], close[-2] - 12, close[-1]])))
    return found


def _cost(voicing: tuple[int, ...], previous: tuple[int, ...] | None, centre: int) -> float:
    cost = 0.6 * abs(sum(voicing) / len(voicing) - centre)
    gaps = [high - low for low, high in pairwise(voicing)]
    cost += 2.5 * sum(gap == 1 for gap in gaps)
    cost += 3.0 * sum(gap < 4 for gap, low in zip(gaps, voicing, strict=False) if low < 52)
    if previous is not None:
        cost += sum(min(abs(pitch - old) for old in previous) for pitch in voicing)
        cost += 0.8 * abs(voicing[-1] - previous[-1]) + 0.4 * abs(voicing[0] - previous[0])
    return cost


def voice(chords: tuple[Chord, ...], centre: int, is_rootless: bool) -> tuple[tuple[int, ...], ...]:
    """One voicing a chord, each as near as can be to the one before, around pitch `centre`."""
    voicings: list[tuple[int, ...]] = []
    for chord in chords:
        previous = voicings[-1] if voicings else None
        options = _candidates(chord, centre, is_rootless)
        voicings.append(min(options, key=lambda option: (_cost(option, previous, centre), option)))
    return tuple(voicings)
