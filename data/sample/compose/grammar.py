"""Chord progressions drawn from a small grammar of functional harmony.

Degrees follow one another as in `_FOLLOWERS`: away from the tonic, on to the subdominant, on to the
dominant and home. `_COLOURS` spells each degree as triad, seventh chord or ninth chord, in C major
or A minor, the notation that `harmony.parse_progression` reads.
"""

from random import Random

_FOLLOWERS = {
    False: {
        "I": ("IV", "vi", "V", "ii", "iii", "IV", "vi"),
        "ii": ("V", "V", "V", "IV"),
        "iii": ("vi", "IV", "vi"),
        "IV": ("V", "I", "ii", "V"),
        "V": ("I", "vi", "IV"),
        "vi": ("IV", "ii", "V", "IV", "iii"),
    },
    True: {
        "i": ("VI", "iv", "VII", "III", "VI", "v"),
        "III": ("VII", "VI", "iv"),
        "iv": ("V", "VII", "i", "V"),
        "v": ("VI", "iv", "i"),
        "V": ("i", "VI"),
        "VI": ("VII", "III", "iv", "V", "VII"),
        "VII": ("i", "III", "VI"),
    },
}
_HOME = {False: "I", True: "i"}
_STARTS = {False: ("I", "I", "I", "vi", "IV"), True: ("i", "i", "i", "i", "VI")}
_TURNS = {False: ("V", "V", "IV", "ii"), True: ("V", "VII", "iv", "V")}
"""Degrees that a phrase ends on so that it leads back to its start."""

_COLOURS = {
    "triads": {
        "I": ("C",), "ii": ("Dm",), "iii": ("Em",), "IV": ("F",), "V": ("G", "G", "Gsus4"),
        "vi": ("Am",), "i": ("Am",), "III": ("C",), "iv": ("Dm",), "v": ("Em",), "V minor": ("E",),
        "VI": ("F",), "VII": ("G",),
    },
    "sevenths": {
        "I": ("Cmaj7", "C6"), "ii": ("Dm7",), "iii": ("Em7",), "IV": ("Fmaj7", "F6"), "V": ("G7",),
        "vi": ("Am7",), "i": ("Am7", "Am6"), "III": ("Cmaj7",), "iv": ("Dm7",), "v": ("Em7",),
        "V minor": ("E7",), "VI": ("Fmaj7",), "VII": ("G7", "G6"),
    },
    "ninths": {
        "I": ("Cmaj9", "C69"), "ii": ("Dm9",), "iii": ("Em7",), "IV": ("Fmaj9",),
        "V": ("G13", "G9", "G7sus4"), "vi": ("Am9",), "i": ("Am9", "Am11"), "III": ("Cmaj9",),
        "iv": ("Dm9",), "v": ("Em7",), "V minor": ("E7#9", "E7b9"), "VI": ("Fmaj9",),
        "VII": ("G13",),
    },
    "open": {
        "I": ("Cadd9", "C"), "ii": ("Dm7",), "iii": ("Em",), "IV": ("Fadd9", "F"),
        "V": ("Gsus4", "G"), "vi": ("Am7", "Am"), "i": ("Am", "Amadd9"), "III": ("C", "Cadd9"),
        "iv": ("Dm", "Dmadd9"), "v": ("Em",), "V minor": ("Esus4", "E"), "VI": ("F", "Fadd9"),
        "VII": ("G",),
    },
}  # fmt: skip
COLOURS = tuple(_COLOURS)


def _degrees(count: int, *, is_minor: bool, rng: Random) -> list[str]:
    """One phrase: from a start over the followers to a degree that leads back."""
    degrees = [rng.choice(_STARTS[is_minor])]
    while len(degrees) < count - 1:
        options = _FOLLOWERS[is_minor][degrees[-1]]
        degrees.append(rng.choice(options))
    if count > 1:
        turns = [turn for turn in _TURNS[is_minor] if turn != degrees[-1]]
        degrees.append(rng.choice(turns))
    return degrees


def progression(
    num_bars: int, *, chords_per_bar: int = 1, is_minor: bool, colour: str, rng: Random
) -> str:
    """A progression in phrases of four chords, each the same as the one before, or half of it.

    A chord name is drawn once for each degree, so that a composition has one sound.
    """
    count = num_bars * chords_per_bar
    spelled = {
        degree: rng.choice(names)
        for degree, names in sorted(_COLOURS[colour].items())
        if degree != "V minor"
    }
    if is_minor:
        spelled["V"] = rng.choice(_COLOURS[colour]["V minor"])
    degrees: list[str] = []
    phrase = _degrees(min(4, count), is_minor=is_minor, rng=rng)
    while len(degrees) < count:
        degrees += phrase
        keep = rng.choice((0, 2, 4))
        fresh = _degrees(4, is_minor=is_minor, rng=rng)
        phrase = phrase if keep == 4 else [*phrase[:keep], *fresh[keep:]]
    names = [spelled[degree] for degree in degrees[:count]]
    bars = [names[place : place + chords_per_bar] for place in range(0, count, chords_per_bar)]
    return " | ".join(" ".join(bar) for bar in bars)
