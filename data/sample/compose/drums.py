"""Drum grooves with a fill at the end of the loop.

Symbols: `X` accent, `x` normal, `o` soft, `g` ghost. A groove is a pattern a voice; a fill replaces
the second half of the last bar for the voices it names.
"""

from dataclasses import dataclass, field

from data.sample.compose.rhythm import strikes
from data.sample.compose.score import Note

_KEYS = {
    "kick": 36, "rim": 37, "snare": 38, "clap": 39, "snare 2": 40, "hat": 42, "pedal": 44,
    "open": 46, "low tom": 43, "mid tom": 47, "high tom": 50, "crash": 49, "ride": 51, "bell": 53,
    "tambourine": 54, "cowbell": 56, "high bongo": 60, "low bongo": 61, "mute conga": 62,
    "conga": 63, "low conga": 64, "timbale": 65, "cabasa": 69, "maracas": 70, "guiro": 73,
    "clave": 75, "block": 76, "triangle": 81, "shaker": 82,
}  # fmt: skip
_VELOCITY = {"X": 112, "x": 92, "o": 64, "g": 38}
_QUIET = {"hat": -14, "shaker": -20, "open": -16, "ride": -8, "maracas": -18, "cabasa": -16}


@dataclass(frozen=True, slots=True)
class Groove:
    """Steps of each voice over one or more bars, and the fill of the last half bar."""

    voices: dict[str, tuple[str, ...]]
    fill: dict[str, str] = field(default_factory=dict)
    has_crash: bool = False


GROOVES = {
    "lofi": Groove(
        {
            "kick": ("X......x..x.....", "X......x..xo...."),
            "snare": ("....X..g....X..g", "....X.......X.g."),
            "hat": ("x.o.x.o.x.o.x.oo",),
        },
        {"snare": "..x.X.go", "kick": "..x....x"},
    ),
    "boom bap": Groove(
        {
            "kick": ("X..x......xx....", "X..x.....x.x...."),
            "snare": ("....X..g.g..X...",),
            "hat": ("x.x.x.xox.x.x.x.",),
            "open": ("..............o.",),
        },
        {"snare": "..g.X.xx"},
    ),
    "house": Groove(
        {
            "kick": ("X...X...X...X...",),
            "clap": ("....x.......x...",),
            "open": ("..x...x...x...x.",),
            "hat": ("oogooogooogooogo",),
        },
        {"snare": "..o.oxxX", "kick": "X...X..."},
        has_crash=True,
    ),
    "deep house": Groove(
        {
            "kick": ("X...X...X...X...",),
            "rim": ("...x..x....x..x.", "...x..x....x.x.."),
            "clap": ("....o.......o...",),
            "shaker": ("xoxoxoxoxoxoxoxo",),
            "open": ("..x...x...x...x.",),
        },
        {"rim": "x.xx.xxx"},
    ),
    "trance": Groove(
        {
            "kick": ("X...X...X...X...",),
            "clap": ("....X.......X...",),
            "open": ("..x...x...x...x.",),
            "hat": ("x.x.x.x.x.x.x.xo",),
        },
        {"snare": "o.ooxxXX", "kick": "X......."},
        has_crash=True,
    ),
    "swing": Groove(
        {
            "ride": ("X.xoX.xo", "X.xoX.xx"),
            "pedal": ("..x...x.",),
            "kick": ("g.g.g.g.", "g.g.g..o"),
            "snare": (".....g..", "...g...g", "g....o..", "...g.g.."),
        },
        {"snare": "xoxX", "high tom": "....", "kick": "o..x"},
    ),
    "jazz waltz": Groove(
        {
            "ride": ("X.xox.", "X.xoxo"),
            "pedal": ("..x.x.", "..x..."),
            "snare": (".....g", "...o..", ".g...g"),
            "kick": ("o.....", "o....g"),
        },
        {"snare": "oxX"},
    ),
    "funk": Groove(
        {
            "kick": ("X.x.......x..x..", "X.x....x..x....."),
            "snare": ("....X..g.g..X..g", "....X..g.g..X.g."),
            "hat": ("xoxoxoxoxoxoxox.",),
            "open": ("..............x.",),
        },
        {"snare": "xg.xX.xx", "kick": "..x....x", "hat": "x..x...."},
        has_crash=True,
    ),
    "bossa": Groove(
        {
            "rim": ("x..x..x.", "..x..x.."),
            "kick": ("x..ox..o",),
            "hat": ("xoxoxoxo",),
            "pedal": ("..x...x.",),
        },
        {"snare": "..go"},
    ),
    "reggae": Groove(
        {
            "kick": ("........X.......",),
            "rim": ("........X.......", "........X....g.."),
            "hat": ("x.o.x.o.x.o.x.oo",),
        },
        {"snare": "X..x.xxX", "high tom": ".x..x..."},
    ),
    "disco": Groove(
        {
            "kick": ("X...X...X...X...",),
            "snare": ("....X.......X...", "....X.......X..g"),
            "open": ("..x...x...x...x.",),
            "hat": ("xo.oxo.oxo.oxo.o",),
            "tambourine": ("....o.......o...",),
        },
        {"snare": "xx.xX.xx", "high tom": "....x.x."},
        has_crash=True,
    ),
    "rock": Groove(
        {
            "kick": ("X......xX.x.....", "X..x....X.x....."),
            "snare": ("....X.......X...",),
            "hat": ("X.x.X.x.X.x.X.x.",),
        },
        {"snare": "X.x.xx..", "high tom": "...x....", "low tom": "......xX", "hat": "........"},
        has_crash=True,
    ),
    "folk": Groove(
        {
            "kick": ("x.......x.x.....",),
            "shaker": ("xoxoxoxoxoxoxoxo",),
            "tambourine": ("....x.......x...",),
        },
        {"tambourine": "x.x.x.xo"},
    ),
    "synthwave": Groove(
        {
            "kick": ("X...x...X...x...", "X...x..xX...x..."),
            "snare": ("....X.......X...",),
            "hat": ("x.x.x.x.x.x.x.x.",),
        },
        {"high tom": "x.x.....", "mid tom": "..x.x...", "low tom": "....x.xX"},
        has_crash=True,
    ),
    "night drive": Groove(
        {
            "kick": ("X...X...X...X...",),
            "snare": ("....X.......X...",),
            "hat": ("x.o.x.o.x.o.x.o.",),
        },
        {"high tom": "....x...", "mid tom": "......x.", "snare": "........"},
    ),
    "trap": Groove(
        {
            "kick": ("X.....x...x.....", "X..x......x..x.."),
            "clap": ("........X.......",),
            "hat": ("x.x.x.xxx.x.xoxo", "x.x.xxx.x.xox.xx"),
            "open": ("..............o.", "................"),
        },
        {"snare": "....oxxX"},
    ),
    "break": Groove(
        {
            "kick": ("X.x.......xx....", "X.x.......x....."),
            "snare": ("....X..g.g..X..g", "....X..g.g.g..X."),
            "hat": ("x.x.x.x.x.x.x.x.",),
            "ride": ("................",),
        },
        {"snare": "xgxgXgxX"},
        has_crash=True,
    ),
    "shuffle": Groove(
        {
            "kick": ("X...X..o", "X..oX..."),
            "snare": ("..X...X.", "..X..gX."),
            "ride": ("x.xxx.xx",),
        },
        {"snare": "xxXX", "low tom": "..x."},
    ),
    "salsa": Groove(
        {
            "mute conga": ("x.o.x.o.x.o.x...",),
            "low conga": ("......xx......xx", "......xx....x.xx"),
            "clave": ("x..x..x...x.x...",),
            "cowbell": ("X.o.x.o.X.o.x.o.",),
            "maracas": ("xoxoxoxoxoxoxoxo",),
            "kick": ("...x........x...",),
        },
        {"timbale": "x.xxX.xX"},
    ),
    "afro": Groove(
        {
            "kick": ("X...x...X...x...",),
            "conga": ("..x...xx..x...x.",),
            "low conga": ("x......x.x......",),
            "shaker": ("xooxxooxxooxxoox",),
            "bell": ("x.x.x..x.x.x..x.",),
        },
        {"high bongo": "x.xx..x.", "low bongo": "...x.x.X"},
    ),
    "march": Groove(
        {
            "snare": ("X.xoX.o.X.xoXoxo", "X.xoX.o.XoxoX.x."),
            "kick": ("X.......X.......",),
            "crash": ("o.......o.......", "................"),
        },
        {"snare": "ooxxXxXx"},
    ),
    "soul": Groove(
        {
            "kick": ("X.....X.....", "X.....X.x..."),
            "snare": ("...X.....X..", "...X.....X.g"),
            "hat": ("xooxooxooxoo",),
        },
        {"snare": "x.xXxx", "mid tom": ".x...."},
    ),
    "brush waltz": Groove(
        {
            "kick": ("x.....",),
            "snare": ("..o.o.", "..o.oo"),
            "ride": ("o.g.g.",),
        },
    ),
    "hand": Groove(
        {
            "shaker": ("xoxoxoxo",),
            "low conga": ("x...o..x",),
            "conga": ("..x..x..",),
        },
        {"high bongo": "x.xx"},
    ),
    "cinematic": Groove(
        {
            "low tom": ("X..x..x.X..x..xx", "X..x..x.X..xx.xx"),
            "kick": ("X.......X.......",),
        },
        {"low tom": "X.xxXxXX"},
        has_crash=True,
    ),
    "chip": Groove(
        {
            "kick": ("X...X...X...X.x.",),
            "snare": ("....X.......X...",),
            "hat": ("x.xxx.xxx.xxx.xx",),
        },
        {"snare": "x.xxX.xX"},
    ),
}  # fmt: skip


def drum_part(name: str, beats_per_bar: int, num_bars: int) -> list[Note]:
    """Notes of the groove `name`; the last bar ends in its fill."""
    groove = GROOVES[name]
    notes: list[Note] = []
    for voice, bars in groove.voices.items():
        looped = [bars[bar % len(bars)] for bar in range(num_bars)]
        if voice in groove.fill:
            looped[-1] = looped[-1][: len(looped[-1]) // 2] + groove.fill[voice]
        notes += _voice_notes(voice, tuple(looped), beats_per_bar)
    for voice in groove.fill.keys() - groove.voices.keys():
        half = groove.fill[voice]
        bars = ("." * len(half) * 2,) * (num_bars - 1) + ("." * len(half) + half,)
        notes += _voice_notes(voice, bars, beats_per_bar)
    if groove.has_crash:
        notes.append(Note(0.0, 1.0, _KEYS["crash"], 84))
    return sorted(notes, key=lambda n: (n.start_beats, n.pitch))


def _voice_notes(voice: str, bars: tuple[str, ...], beats_per_bar: int) -> list[Note]:
    quiet = _QUIET.get(voice, 0)
    return [
        Note(hit.start_beats, 0.2, _KEYS[voice], max(20, _VELOCITY[hit.symbol] + quiet))
        for hit in strikes(bars, beats_per_bar, len(bars))
    ]
