"""The compositions: a genre, a key, a tempo, a progression and another harmonisation of the tune.

Progressions are written in C major or A minor and transposed; see `harmony.py`. Each composition
has three variations: `full` (the band), `other` (the same tune by another band) and one of its own.
"""

from dataclasses import dataclass

from data.sample.compose import acoustic, electric
from data.sample.compose.bands import Genre

GENRES: dict[str, Genre] = {genre.name: genre for genre in (*acoustic.GENRES, *electric.GENRES)}


@dataclass(frozen=True, slots=True)
class Composition:
    """One tune. `third` is `no drums`, `reharmonised` or `register`."""

    group: str
    genre: str
    key: str
    tempo_bpm: int
    progression: str
    reharmonisation: str
    third: str = "no drums"
    beats_per_bar: int = 4


_LIST = (
    Composition(
        "first snow", "piano ballad", "C major", 70, "C/E F6 | Gsus4 C",
        "Am9 Fmaj7 | Dm7 Cmaj9", "reharmonised",
    ),
    Composition(
        "paper boats", "piano waltz", "G major", 92, "C | Am7 | Dm7 | G7",
        "Cmaj7 | Em7 | Fmaj7 | G7sus4", "reharmonised", 3,
    ),
    Composition(
        "rain on tin", "lo-fi hip hop", "F minor", 76, "Am9 Dm9 | Fmaj9 Em7",
        "Fmaj9 Em7 | Dm9 E7#9",
    ),
    Composition(
        "glass floor", "house", "F minor", 124, "Am7 | Fmaj7 | Cmaj7 | G6",
        "Dm7 | Am7 | Fmaj7 | Em7",
    ),
    Composition(
        "blue door", "jazz", "F major", 132, "Dm9 | G13 | Cmaj9 | A7b9",
        "Fmaj7 Fm6 | Em7 A7 | Dm9 G7b9 | C69", "no drums",
    ),
    Composition(
        "garden gate", "jazz waltz", "Bb major", 138,
        "Cmaj9 | Am7 | Dm9 | G13 | Em7 A7b9 | Dm9 G13",
        "Fmaj7 | Fm6 | Em7 | A7b9 | Dm9 | G13", "no drums", 3,
    ),
    Composition(
        "evening prayer", "strings", "D major", 72, "C Em/B | F/A G7",
        "Am Em/G | Fmaj7 G7sus4", "reharmonised",
    ),
    Composition(
        "cold river", "strings", "G minor", 96, "Am | Dm/F | E7 | Am E7/G#",
        "Fmaj7 | Dm | Bm7b5 | E7", "register",
    ),
    Composition(
        "the long wall", "cinematic", "D minor", 104, "Am | F | C | G",
        "Am | Dm | F | Esus4 E",
    ),
    Composition(
        "slow light", "ambient", "E major", 70, "Cadd9 | Fmaj7#11",
        "Am9 | Fmaj9", "reharmonised",
    ),
    Composition(
        "loose change", "funk", "E minor", 104, "Am7 | Am7 | D9 | Am7",
        "Am7 | C7 | D9 | E7#9",
    ),
    Composition(
        "warm stone", "bossa nova", "A minor", 128, "Am9 | Dm9 | Bm7b5 | E7b9",
        "Am6 | Fmaj7 | Dm6 | E7b9",
    ),
    Composition(
        "eight doors", "chiptune", "C major", 140, "C | Am | F | G",
        "Am | F | C | G", "reharmonised",
    ),
    Composition(
        "clockwork meadow", "minimalism", "G major", 120, "C | Em/B | Am7 | Fmaj7",
        "Fmaj7 | Cadd9 | Dm7 | Am7", "reharmonised",
    ),
    Composition(
        "five stairs", "five-four mallets", "B minor", 130, "Am9 | Fmaj7 | Dm9 | Em7",
        "Dm9 | Am9 | Fmaj7 | Em7", "no drums", 5,
    ),
    Composition(
        "slow tide", "reggae", "G major", 74, "C F | Am G",
        "Am Em | F G",
    ),
    Composition(
        "mirror ball", "disco", "D minor", 118, "Am7 | Dm9 | G13 | Cmaj7 E7",
        "Fmaj7 | Em7 | Dm9 | E7#9",
    ),
    Composition(
        "dust road", "rock", "E minor", 126, "Am | F | C | G",
        "Am | C | G | D", "no drums",
    ),
    Composition(
        "apple barn", "folk", "G major", 108, "C | G/B | Am7 F | C G",
        "F | C/E | Dm7 | G7sus4 G",
    ),
    Composition(
        "canal street", "musette waltz", "A minor", 140, "Am | Am | Dm | E7 | Am | E7",
        "F | C | Dm | Am | Bm7b5 | E7", "reharmonised", 3,
    ),
    Composition(
        "neon mile", "synthwave", "F# minor", 108, "Am | F | C | G",
        "F | G | Am | Em",
    ),
    Composition(
        "third floor", "trap", "C# minor", 140, "Am | F | Dm | E7",
        "Am | Em | F | G",
    ),
    Composition(
        "shortwave", "breakbeat", "D minor", 136, "Am7 | Am7 | Fmaj7 | G6",
        "Dm9 | Am7 | Dm9 | Em7", "reharmonised",
    ),
    Composition(
        "daybreak", "trance", "A minor", 138, "Am | F | C | G",
        "F | G | Em | Am", "no drums",
    ),
    Composition(
        "sunday coat", "soul", "Ab major", 76, "C E7 | Am7 C7 | F Fm6",
        "Cmaj7 Am7 | Dm7 G7 | Em7 A7",
    ),
    Composition(
        "porch light", "blues", "A major", 112, "C7 | F9 | C7 | G13 F9",
        "C7 A7 | Dm7 G7 | C7 Ebdim7 | Dm7 G13", "no drums",
    ),
    Composition(
        "market square", "salsa", "C minor", 100, "Am | Dm | E7 | Am",
        "Am G | F E7 | Dm E7 | Am",
    ),
    Composition(
        "last dance", "tango", "D minor", 114, "Am | Dm | E7 | Am E7",
        "Fmaj7 | Bm7b5 | E7b9 | Am", "reharmonised",
    ),
    Composition(
        "small court", "baroque", "D minor", 98, "Am Dm | G C | F Bm7b5 | E7 Am",
        "Am E7/G# | Am F | Dm Bm7b5 | Esus4 E7", "reharmonised",
    ),
    Composition(
        "moth and moon", "lullaby", "F major", 94, "C | F | Dm7 | G7",
        "Am7 | Fmaj7 | Dm7 | G7sus4", "reharmonised", 3,
    ),
    Composition(
        "hill fair", "celtic", "D major", 112, "C | G | Am F | G C",
        "Am | F | C G | Am",
    ),
    Composition(
        "palm wine", "highlife", "F major", 112, "C | F | G | C G",
        "Am | F | Dm7 G | C",
    ),
    Composition(
        "brass gate", "march", "Bb major", 108, "C | F C/E | Dm G7 | C",
        "Am | Dm G | Em Am | Dm7 G7", "reharmonised",
    ),
    Composition(
        "stone chapel", "hymn", "E major", 74, "C F C/E G | Am Dm7 Gsus4 C",
        "Am F Em Am | Fmaj7 C/E Dm7 G", "reharmonised",
    ),
)  # fmt: skip

COMPOSITIONS = {composition.group: composition for composition in _LIST}
