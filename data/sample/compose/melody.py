"""Melodies from motifs: a rhythm and a contour, restated over each chord; the best draft wins.

Bars of one letter of the form share rhythm and contour. Strong notes land on chord tones, weak ones
move along the scale. Drafts are judged by rules of ear: singable leaps, one peak, few repeats.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from data.sample.compose.harmony import Chord, chord_at, scale_over
from data.sample.compose.instruments import Instrument
from data.sample.compose.rhythm import strikes
from data.sample.compose.score import Key, Note

_NUM_DRAFTS = 120
_STEPS = (0, 1, -1, 2, -2, 3, -3, 4)
_STEP_WEIGHTS = (6, 24, 26, 12, 10, 4, 2, 3)
_FORMS = {1: ("A",), 2: ("AB", "AC"), 3: ("AAC", "ABC"), 4: ("ABAC", "AABC", "ABAC"), 5: ("ABABC",)}

RHYTHMS = {
    "song": ("x--xx-x-", "x-x-x-xx", "x---x-x-", "x-----xx", ".xx-x-x-"),
    "ballad": ("x-----x-x-x---xx", "....x-x-x---x-x-", "x---x-x-x-----x-", "x-------..x-x-x-"),
    "waltz": ("x-xx--", "x--xx-", "x---x-", "x-x-x-", "x-----"),
    "slow waltz": ("x---x-", "x-xx--", "x-----", "x-x-x-"),
    "lofi": ("..x-x-.x--..x-x-", "x--x--x-....x-x-", "x-----..x-.x--..", "..x-x-x-x-----.."),
    "house": ("x..x..x-..x.x-..", "..x.x..x..x.x...", "x-....x.x..x----"),
    "long": ("x-------", "x---x---", "x-----x-"),
    "very long": ("x-------", "x-------", "x---x---"),
    "swing": (".xxx.xx-", "x-xxx-.x", "..xxxx.x", "xxx-.xx-", ".x-x--..", "x--x.xxx"),
    "bebop waltz": ("x-xxx-", ".xxxxx", "x--x--", "x-.xx-"),
    "funk": ("x.xx..x...x.xx..", "..x.x.xx..x...x.", "x..x..x-....xxxx", "x.x.....x..xx-.."),
    "bossa": ("x--x--x-", ".x-x-xx-", "x-----xx", ".x-xx-x-", "x--xx---"),
    "reggae": ("..x-x-x-x---....", "x---x-x---x-x---", "....x-xxx---x-x-"),
    "disco": ("x-.x--x-x-.x--x-", "x--x--x-----x-x-", "x-------..x-x-x-"),
    "rock": ("x--x--x-x---x-x-", "x---x---x-x-x---", "x-------..x-x-x-", "..x-x-x-x-x-x---"),
    "synth": ("x--x--x---x-x---", "x-----x-----x---", "x--x--x-x--x--x-"),
    "trap": ("x.....x.x...x...", "x-----x-..x-x---", "..x.x-......x.x."),
    "riff": ("x.x..x.x..x.x...", "x..x..x.x.x..x..", "x.x.x..x..x.x-x-"),
    "trance": ("x..x..x..x..x.x.", "x--x--x--x--x-x-", "x-----x-----x---"),
    "chip": ("x.xxx.x.x.x.xxx.", "x.x.x.xxx.x.x---", "x-x-xxx.x-x-x---", "xxx.x.x.xxx.x-x-"),
    "minimal": ("x.x.xx.x", "x.xx.x.x", ".xx.x.x.", "x..x..x."),
    "five": ("x--x-x---.", "x--x-x-x-x", "x-----x-x-", "x--x------"),
    "baroque": ("x---x-xxx-x-x-x-", "x-xxx-x-x-x-x-x-", "xxxxx-x-x-xxx-x-", "x---x---x-xxx---"),
    "soul": ("x--x-xx-----", "..xx-xx--x-x", "x-----x-xx--", ".xxx-----x-x"),
    "blues": ("x-xx.x--", ".xxx-x..", "x--xx-..", "..x-xxx-"),
    "salsa": ("..xx.x.xx-..x.x.", "x..x..x-..x.x...", "xx.xx.x-....x.x.", "..x.x.x.x-x-x---"),
    "tango": ("x--xx-x-", "x-x-x--x", "x---xxx-", "x--xxxxx", "x-x-x---"),
    "highlife": ("x-x.x-x.x.x-x...", "..x.x.x-x.x.x-..", "x-.x-.x-x-......"),
    "march": ("x--xx-x-", "x-x-x-xx", "x---x---", "x-x-x---"),
    "reel": ("xxxxxxxx", "x-xxx-xx", "xxxxx-x-", "x-xxxxxx"),
    "hymn": ("xxxx", "x-xx", "xxx-", "x-x-"),
    "fall": ("x---------......", "x-----x---------", "....x-------x---"),
}


@dataclass(frozen=True, slots=True)
class Theme:
    """What a melody keeps when it is orchestrated or harmonised anew."""

    rhythm: str
    scale: str = "key"
    velocity: int = 92


@dataclass(frozen=True, slots=True)
class _Ladder:
    """The pitches a melody may use over a chord, in order, and those of them that belong to it."""

    pitches: list[int]
    tones: list[int]


def _ladder(chord: Chord, key: Key, scale: str, register: tuple[int, int]) -> _Ladder:
    """Pitches from the scale of the chord, or from the key's pentatonic or blues scale."""
    allowed = set(scale_over(chord, key))
    if scale == "pentatonic":
        steps = (0, 3, 5, 7, 10) if key.is_minor else (0, 2, 4, 7, 9)
        five = {(key.tonic + step) % 12 for step in steps}
        allowed = {pc for pc in five if pc in allowed} | set(chord.tones[:3])
    if scale == "blues":
        allowed = {(key.tonic + step) % 12 for step in (0, 3, 5, 6, 7, 10)} | set(chord.tones[:3])
    low, high = register
    pitches = [pitch for pitch in range(low, high + 1) if pitch % 12 in allowed]
    return _Ladder(pitches, [pitch for pitch in pitches if pitch % 12 in chord.tones])


def _closest(options: list[int], target: float) -> int:
    """The nearest of ascending options, the lower one if two are as near."""
    place = bisect_left(options, target)
    near = options[max(0, place - 1) : place + 1]
    return near[-1] if abs(near[-1] - target) < abs(near[0] - target) else near[0]


def _move(pitches: list[int], pitch: int, steps: int) -> int:
    index = pitches.index(_closest(pitches, pitch))
    return pitches[min(len(pitches) - 1, max(0, index + steps))]


def _contour(length: int, rng: Random) -> list[int]:
    return rng.choices(_STEPS, _STEP_WEIGHTS, k=length)


def _draft(
    ladder_of: Mapping[Chord, _Ladder],
    theme: Theme,
    *,
    register: tuple[int, int],
    beats_per_bar: int,
    rng: Random,
) -> list[Note]:
    """One melody: a form over the bars, a rhythm and a contour for each of its letters."""
    chords = tuple(ladder_of)
    num_bars = round(chords[-1].end_beats / beats_per_bar)
    form = rng.choice(_FORMS.get(num_bars, _FORMS[4]))
    while len(form) < num_bars:
        form += rng.choice(_FORMS[4])
    rhythms = RHYTHMS[theme.rhythm]
    rhythm_of = dict(zip("ABC", rng.sample(rhythms, min(3, len(rhythms))), strict=False))
    hits_of = {
        letter: list(strikes((rhythm,), beats_per_bar, 1)) for letter, rhythm in rhythm_of.items()
    }
    contour_of = {letter: _contour(16, rng) for letter in "ABC"}
    centre = sum(register) / 2
    pitch = round(centre) + rng.randint(-4, 4)
    notes: list[Note] = []
    for bar, letter in enumerate(form[:num_bars]):
        hits = hits_of[letter]
        lift = (2, 4, 5, 1, 3, 0)[bar % 6] if num_bars > 2 else (1, 3)[bar % 2]
        for place, hit in enumerate(hits):
            start = bar * beats_per_bar + hit.start_beats
            ladder = ladder_of[chord_at(chords, start)]
            if place == 0:
                pitch = _closest(ladder.tones, (pitch + centre + lift) / 2)
            else:
                pitch = _move(ladder.pitches, pitch, contour_of[letter][place])
            is_strong = hit.start_beats % 1 == 0 or hit.length_beats >= 1
            if is_strong or place == len(hits) - 1:
                pitch = _closest(ladder.tones, pitch)
            arch = round(6 - abs(place / max(1, len(hits) - 1) - 0.5) * 12)
            length = hit.length_beats * (0.96 if hit.length_beats > 0.5 else 0.9)
            notes.append(Note(start, length, pitch, theme.velocity + arch))
    return notes


def _leap_cost(notes: list[Note]) -> float:
    leaps = [abs(b.pitch - a.pitch) for a, b in pairwise(notes)]
    cost = sum(2.0 * (leap > 7) + 4.0 * (leap > 12) + 1.5 * (leap == 6) for leap in leaps)
    for before, middle, after in zip(notes, notes[1:], notes[2:], strict=False):
        leap, answer = middle.pitch - before.pitch, after.pitch - middle.pitch
        cost += 1.0 * (abs(leap) > 5 and leap * answer > 0)
        cost += 1.2 * (leap == 0 and answer == 0)
    return cost


def _clash_cost(notes: list[Note], chords: tuple[Chord, ...]) -> float:
    cost = 0.0
    for note in notes:
        over = {(note.pitch - tone) % 12 for tone in chord_at(chords, note.start_beats).tones}
        if note.length_beats >= 0.45 and 0 not in over:
            cost += 2.0 * (1 in over) + 0.4
    return cost


def _judge(notes: list[Note], chords: tuple[Chord, ...], register: tuple[int, int]) -> float:
    """Cost of a draft; lower sings better."""
    pitches = [note.pitch for note in notes]
    span = max(pitches) - min(pitches)
    steps = [b - a for a, b in pairwise(pitches)]
    stepwise = sum(0 < abs(step) <= 2 for step in steps) / max(1, len(steps))
    turns = sum(a * b < 0 for a, b in pairwise(steps)) / max(1, len(steps))
    cost = (_leap_cost(notes) + _clash_cost(notes, chords)) / len(notes) * 10
    cost += 0.8 * max(0, 7 - span) + 0.6 * max(0, span - 16)
    cost += 6.0 * abs(stepwise - 0.55) + 5.0 * abs(turns - 0.42)
    cost += 0.8 * (pitches.count(max(pitches)) - 1) + 0.3 * abs(pitches[-1] - pitches[0])
    cost += 0.5 * abs(sum(pitches) / len(pitches) - sum(register) / 2)
    cost += 9.0 * max(0.0, steps.count(0) / len(notes) - 0.1)
    cost += 0.8 * max(0, 6 - len(set(pitches)))
    return cost - 3.0 * min(1.8, len(notes) / chords[-1].end_beats)


def melody(
    theme: Theme,
    chords: tuple[Chord, ...],
    instrument: Instrument,
    *,
    key: Key,
    beats_per_bar: int,
    octave: int,
    rng: Random,
) -> list[Note]:
    """The best of many drafts; `octave` shifts the register by whole octaves."""
    low = min(max(instrument.low, 60 + 12 * octave), instrument.high - 16)
    register = (low, min(instrument.high, low + 18))
    ladder_of = {chord: _ladder(chord, key, theme.scale, register) for chord in chords}
    drafts = [
        _draft(ladder_of, theme, register=register, beats_per_bar=beats_per_bar, rng=rng)
        for _ in range(_NUM_DRAFTS)
    ]
    return min(drafts, key=lambda notes: _judge(notes, chords, register))
