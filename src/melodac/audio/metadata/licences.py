"""Licences under one name each, so that a summary counts them and a filter finds them.

Creative Commons licences get their SPDX identifier; what is not recognised keeps its own words,
since guessing a licence is worse than not knowing it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN_LICENCE = "unknown"
PUBLIC_DOMAIN = "public domain"

# https://creativecommons.org/licenses/list.en: .../licenses/by-nc-sa/3.0/us/, .../publicdomain/zero
_ADDRESS = re.compile(
    r"creativecommons\.org/(?:licen[sc]es|publicdomain)/"
    r"(?P<kind>zero|mark|by(?:-(?:nc|nd|sa))*)"
    r"(?:/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2})(?![a-z.-]))?)?",
    re.IGNORECASE,
)
_KINDS = r"(?P<kind>zero|0|by(?:[ -](?:nc|nd|sa))*)"
_NAME = re.compile(
    rf"(?:cc|creative commons)[ -]*{_KINDS}"
    r"(?:[ -]*v?(?P<version>\d\.\d))?(?:[ -](?P<port>[a-z]{2}))?"
    r"(?: universal| international| unported| licen[sc]e)*",
    re.IGNORECASE,
)
_LONG_WORDS = (
    ("non-commercial", "nc"),
    ("noncommercial", "nc"),
    ("share-alike", "sa"),
    ("share alike", "sa"),
    ("sharealike", "sa"),
    ("no derivatives", "nd"),
    ("noderivatives", "nd"),
    ("noderivs", "nd"),
    ("no derivs", "nd"),
    ("attribution", "by"),
)
_PUBLIC_DOMAIN = frozenset({"public domain", "publicdomain", "pd", "public domain mark"})


@dataclass(frozen=True)
class LicenceTotal:
    """How much music is under one licence."""

    tracks: int
    seconds: float


def canonical_licence(text: str) -> str:
    """The one name of a licence; unknown words as they are.

    Example:
        >>> [canonical_licence(text) for text in ("CC0 1.0", "cc-by-sa", "All rights reserved", "")]
        ['CC0-1.0', 'CC-BY-SA', 'All rights reserved', 'unknown']
        >>> canonical_licence("https://creativecommons.org/licenses/by/3.0/us/")
        'CC-BY-3.0-US'

    Source:
        Identifiers: https://spdx.org/licenses. A version that is not given is not made up.
    """
    words = " ".join(text.split())
    if not words:
        return UNKNOWN_LICENCE
    if words.casefold() in _PUBLIC_DOMAIN:
        return PUBLIC_DOMAIN
    named = _NAME.fullmatch(_shorten_words(words))
    return find_licence(words) or (_identifier(named) if named else words)


def find_licence(text: str) -> str:
    """The licence whose address stands somewhere in the text; '' if none does."""
    found = _ADDRESS.search(text)
    return _identifier(found) if found else ""


def summarize_licences(tracks: Iterable[tuple[str, float]]) -> dict[str, LicenceTotal]:
    """For each licence the tracks and their seconds, sorted by name, in whatever order they come.

    Args:
        tracks: Licence as its source spells it and length in seconds of each track.
    """
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for licence, duration_s in tracks:
        seconds[canonical_licence(licence)].append(duration_s)
    # fsum: a plain sum depends on the order
    return {name: LicenceTotal(len(s), math.fsum(s)) for name, s in sorted(seconds.items())}


def _shorten_words(words: str) -> str:
    """Creative Commons Attribution-ShareAlike 4.0 -> creative commons by-sa 4.0."""
    short = words.casefold().replace("creative commons zero", "cc0").removeprefix("the ")
    for long_word, code in _LONG_WORDS:
        short = short.replace(long_word, code)
    return short


def _identifier(found: re.Match[str]) -> str:
    kind = re.sub(r"\s", "-", found["kind"].lower())
    version = f"-{found['version']}" if found["version"] else ""
    port = f"-{found['port'].upper()}" if found["port"] else ""
    if kind == "mark":
        return PUBLIC_DOMAIN
    if kind in {"zero", "0"}:
        return f"CC0{version or '-1.0'}"  # there is only one
    return f"CC-{kind.upper()}{version}{port}"
