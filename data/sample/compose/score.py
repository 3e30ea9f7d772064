"""Score objects: notes in parts, parts in a score; `metadata.csv` is derived from them.

Times are in beats (quarter notes) from the start of the loop. All modules here may import it.
"""

from dataclasses import dataclass

from data.sample.compose.instruments import Instrument

PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True, slots=True)
class Key:
    """Tonic pitch class (0 is C) and mode."""

    tonic: int
    is_minor: bool

    @property
    def name(self) -> str:
        """Name such as `F minor`."""
        return f"{PITCH_NAMES[self.tonic]} {'minor' if self.is_minor else 'major'}"


@dataclass(frozen=True, slots=True)
class Note:
    """One sounding note; `pitch` is the MIDI number (for drums, the percussion key)."""

    start_beats: float
    length_beats: float
    pitch: int
    velocity: int


@dataclass(frozen=True, slots=True)
class Part:
    """The notes of one player; `level_db` is its loudness in the mix, relative to the lead."""

    role: str
    instrument: Instrument
    notes: tuple[Note, ...]
    level_db: float


@dataclass(frozen=True, slots=True)
class Score:
    """One loop: a whole number of bars that repeats without a seam."""

    group: str
    genre: str
    key: Key
    tempo_bpm: int
    beats_per_bar: int
    num_bars: int
    is_swung: bool
    room: float
    parts: tuple[Part, ...]

    @property
    def num_beats(self) -> int:
        """Length of the loop in beats."""
        return self.num_bars * self.beats_per_bar

    @property
    def duration_s(self) -> float:
        """Length of the loop in seconds."""
        return self.num_beats * 60 / self.tempo_bpm

    @property
    def file_stem(self) -> str:
        """File name without its extension."""
        return self.group.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Take:
    """How a piece is recorded: its tuning (semitones off), its reverberation, its loudness."""

    detune: float
    is_dry: bool
    loudness_lufs: float


def mood(score: Score) -> str:
    """One mood word, from mode and density of notes (notes a second over all pitched parts)."""
    count = sum(len(part.notes) for part in score.parts if part.role != "drums")
    is_busy = count / score.duration_s > 14 or score.tempo_bpm >= 118
    has_drums = any(part.role == "drums" for part in score.parts)
    if score.key.is_minor:
        if is_busy:
            return "driving" if has_drums else "tense"
        return "moody" if has_drums else "melancholic"
    if is_busy:
        return "upbeat" if has_drums else "bright"
    return "relaxed" if has_drums else "peaceful"


def pace(score: Score) -> str:
    """`slow` below 90 bpm, `fast` from 120 bpm, else `medium tempo`."""
    if score.tempo_bpm < 90:
        return "slow"
    return "fast" if score.tempo_bpm >= 120 else "medium tempo"


def tags(score: Score) -> tuple[str, ...]:
    """Genre, sounding instruments in order of first mention, mood, pace and, where true, feel."""
    names = dict.fromkeys(part.instrument.name for part in score.parts if part.notes)
    words = [score.genre, *names, mood(score), pace(score)]
    if score.is_swung:
        words.append("swing")
    if score.beats_per_bar == 3:
        words.append("waltz time")
    if not any(part.role == "drums" for part in score.parts):
        words.append("no drums")
    return tuple(dict.fromkeys(words))
