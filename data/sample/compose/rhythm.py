"""Step strings, the notation of all patterns, and the human touch: swing, timing and accents.

A step string covers one bar: `.` rests, `-` holds, anything else strikes. Its length divided by the
beats of the bar is the number of steps a beat. A pattern is a tuple of such bars, cycled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from random import Random

from data.sample.compose.score import Note

MAX_SHIFT_S = 0.012
"""No note is moved by more than this, in seconds."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One struck step: its symbol and its span in beats."""

    symbol: str
    start_beats: float
    length_beats: float


@dataclass(frozen=True, slots=True)
class Feel:
    """How players place notes.

    `swing` is the share of a pair that its first half takes (0.5 is straight), `unit_beats` the
    length of the pair, `jitter_ms` the deviation of a note's start, `accent` the weight of strong
    beats.
    """

    swing: float = 0.5
    unit_beats: float = 1.0
    jitter_ms: float = 5.0
    accent: float = 1.0


def strikes(pattern: tuple[str, ...], beats_per_bar: int, num_bars: int) -> Iterator[Strike]:
    """Struck steps of a pattern over the whole loop, in order."""
    for bar in range(num_bars):
        text = pattern[bar % len(pattern)]
        step = beats_per_bar / len(text)
        for place, symbol in enumerate(text):
            if symbol in ".-":
                continue
            held = len(text[place + 1 :]) - len(text[place + 1 :].lstrip("-"))
            yield Strike(symbol, bar * beats_per_bar + place * step, (1 + held) * step)


def _swung(beat: float, feel: Feel) -> float:
    whole, part = divmod(beat / feel.unit_beats, 1.0)
    ratio = feel.swing
    bent = part * 2 * ratio if part < 0.5 else ratio + (part - 0.5) * 2 * (1 - ratio)
    return (whole + bent) * feel.unit_beats


def humanise(notes: Iterable[Note], feel: Feel, tempo_bpm: int, rng: Random) -> tuple[Note, ...]:
    """Notes with swing, small errors of timing and touch, and accents on the beat."""
    limit = MAX_SHIFT_S * tempo_bpm / 60
    played: list[Note] = []
    for note in sorted(notes, key=lambda n: (n.start_beats, n.pitch)):
        start = _swung(note.start_beats, feel)
        end = _swung(note.start_beats + note.length_beats, feel)
        shift = rng.gauss(0.0, feel.jitter_ms / 1000 * tempo_bpm / 60)
        start += min(limit, max(-limit, shift))
        on_beat = abs(note.start_beats - round(note.start_beats)) < 1e-3
        touch = rng.gauss(0.0, 4.0) + feel.accent * (3.0 if on_beat else -3.0)
        velocity = min(124, max(14, round(note.velocity + touch)))
        length = max(0.05, end - start)
        played.append(replace(note, start_beats=start, length_beats=length, velocity=velocity))
    return tuple(played)
