"""Fields of metadata: one name, one line of inert text and one spelling for each meaning.

Every source of metadata passes its fields through `clean_fields`, so all obey one rule and a
complaint reads the same wherever the field came from. JSON values may be text, numbers, booleans
and lists of them, nothing else. In `merge`, the first statement with a field sets it; a field
without a statement stays missing, and a file's name is never a source.

Licences get one name each, so that a summary can count and a filter can find them. Creative Commons
licences get their SPDX identifier; unknown ones keep their own words, since guessing a licence is
worse than not knowing it.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, cast

from melodac.errors import AudioError

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
    """Amount of music under one licence."""

    tracks: int
    seconds: float


def canonical_licence(text: str) -> str:
    """Return the one name of a licence; unknown words as they are.

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
    """Return the licence whose address is in the text; '' if there is none."""
    found = _ADDRESS.search(text)
    return _identifier(found) if found else ""


def summarize_licences(tracks: Iterable[tuple[str, float]]) -> dict[str, LicenceTotal]:
    """Sum up tracks and seconds by licence, sorted by name, independently of the order of tracks.

    Args:
        tracks: Licence, as its source spells it, and duration in seconds of each track.
    """
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for licence, duration_s in tracks:
        seconds[canonical_licence(licence)].append(duration_s)
    # fsum, since a plain sum depends on the order
    return {name: LicenceTotal(len(s), math.fsum(s)) for name, s in sorted(seconds.items())}


def _shorten_words(words: str) -> str:
    """Shorten Creative Commons Attribution-ShareAlike 4.0 to creative commons by-sa 4.0."""
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
        return f"CC0{version or '-1.0'}"  # the only version
    return f"CC-{kind.upper()}{version}{port}"


FILE_NAME = "file_name"
GROUP = "group"
LICENCE = "licence"
COPYRIGHT = "copyright"
DESCRIPTION = "description"
TEMPO = "tempo_bpm"
TRACK_NUMBER = "track_number"
SYNONYMS: Mapping[str, str] = {
    "albumartist": "album_artist",
    "beats_per_minute": TEMPO,
    "bpm": TEMPO,
    "caption": DESCRIPTION,
    "genres": "genre",
    "initial_key": "key",
    "initialkey": "key",
    "instruments": "instrument",
    "keyscale": "key",
    "keyword": "keywords",
    "license": LICENCE,
    "mood": "moods",
    "prompt": DESCRIPTION,
    "tbpm": TEMPO,
    "tempo": TEMPO,
    "timesignature": "time_signature",
    "tkey": "key",
    "tracknumber": TRACK_NUMBER,
    "year": "date",
}
"""Other spellings of a field, after case, spaces and hyphens are unified."""

MIN_TEMPO_BPM, MAX_TEMPO_BPM = 20.0, 400.0
MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 4000
MAX_RAW_CHARS = 1 << 17
MAX_FIELDS = 200

# str.split() removes the control characters that are spaces; these would move a terminal's cursor,
# end a C string or change the direction of the following text
_UNPRINTABLE = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_TEMPO = re.compile(r"([0-9]{1,9}(?:[.,][0-9]{1,9})?)\s*(?:bpm)?", re.IGNORECASE)

PEOPLE = frozenset({"album_artist", "artist", "composer"})
"""Fields with names of people, which hold commas (Bach, Johann Sebastian): joined by semicolons."""


@dataclass(frozen=True)
class Statement:
    """Statement of one source about one track."""

    source: str
    """Path of a file relative to the folder of music, or `embedded`."""
    fields: Mapping[str, str]


def clean_text(text: str) -> str:
    """Return the words on one line, without control characters."""
    # JSON and bad tags can hold half a surrogate pair, which cannot be encoded as UTF-8
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join(_UNPRINTABLE.sub("", whole).split())


def canonical_name(name: str) -> str:
    """Return the one name of a field.

    Example:
        >>> canonical_name(" Album Artist "), canonical_name("album-artist"), canonical_name("BPM")
        ('album_artist', 'album_artist', 'tempo_bpm')
    """
    folded = re.sub(r"[\s_-]+", "_", clean_text(name).casefold())
    return SYNONYMS.get(folded, folded)


def join_texts(name: str, texts: Iterable[str]) -> str:
    """Join several values of one field to one text, without empty ones."""
    separator = "; " if canonical_name(name) in PEOPLE else ", "
    return separator.join(text for text in texts if text)


def clean_fields(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Return the usable fields of one source by name, and a complaint for each other.

    An empty value counts as missing. Of two spellings of one field the first is used.
    """
    fields: dict[str, str] = {}
    complaints: list[str] = []
    for raw_name, raw_value in pairs:
        # cut first: hostile tags hold megabytes, which take seconds to clean
        name = canonical_name(raw_name[:MAX_RAW_CHARS])
        value = clean_text(raw_value[:MAX_RAW_CHARS])
        if name in {"", FILE_NAME} or not value:
            continue
        value, complaint = _check(name, value)
        if value and len(fields) == MAX_FIELDS and name not in fields:
            complaints.append(f"more than {MAX_FIELDS} fields, the rest not used")
            break
        if value and fields.setdefault(name, value) != value:
            complaint = f"{name} is given twice, {_shorten(value)!r} not used"
        if complaint:
            complaints.append(complaint)
    copyright_licence = find_licence(fields.get(COPYRIGHT, ""))
    if copyright_licence:
        fields.setdefault(LICENCE, copyright_licence)
    return fields, complaints


def _check(name: str, value: str) -> tuple[str, str]:
    """Return the value to keep, and a complaint about the one given."""
    if len(name) > MAX_NAME_CHARS:
        return (
            "",
            f"{_shorten(name)!r} is a name of more than {MAX_NAME_CHARS} letters, not used",
        )
    if name == TEMPO:
        return _check_tempo(value)
    if name == TRACK_NUMBER:  # 3/12 is the third of twelve; tag editors write 0 for unknown
        return value.partition("/")[0].strip().lstrip("0"), ""
    if len(value) > MAX_VALUE_CHARS:
        complaint = f"{name} has more than {MAX_VALUE_CHARS} characters, cut"
        return value[:MAX_VALUE_CHARS].rstrip(), complaint
    return value, ""


def _check_tempo(value: str) -> tuple[str, str]:
    found = _TEMPO.fullmatch(value)
    tempo_bpm = float(found[1].replace(",", ".")) if found else -1.0
    if tempo_bpm == 0.0:  # unknown, as above
        return "", ""
    if MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
        return f"{tempo_bpm:g}", ""
    allowed = f"a number from {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g}"
    return "", f"{TEMPO} must be {allowed}, got {_shorten(value)!r}, not used"


def _shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


Pairs = list[tuple[str, str]]


def parse_object(text: str) -> tuple[Pairs, list[str]]:
    """Return the fields of one JSON object as text, and a complaint for each without text.

    Raises:
        AudioError: If the text is not one JSON object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise AudioError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AudioError(f"expected an object, got {type(value).__name__}")
    pairs: Pairs = []
    complaints: list[str] = []
    for name, entry in cast(dict[str, object], value).items():
        items = cast(list[object], entry) if isinstance(entry, list) else [entry]
        texts = [_to_text(item) for item in items]
        if None in texts:
            complaints.append(f"{name[:40]!r} is no text, number or list of them, not used")
        else:
            pairs.append((name, join_texts(name, (text for text in texts if text))))
    return pairs, complaints


def _to_text(value: object) -> str | None:
    """Return the text of a plain value, '' for an empty one, None for a value that is not plain."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("two fields have one name")
    return fields


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a value")


@dataclass(frozen=True)
class TrackMetadata:
    """Metadata of one track."""

    group: str = ""
    licence: str = ""
    """Licence as its source spells it."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other fields, sorted by name."""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """Source of each tag, of group and of licence: a file, or `embedded`."""

    @property
    def album(self) -> str:
        """Title of the album; empty if unknown."""
        return self.tags.get("album", "")

    @property
    def album_artist(self) -> str:
        """Artist of the album; empty if unknown."""
        return self.tags.get("album_artist", "")

    @property
    def artist(self) -> str:
        """Performing artist; empty if unknown."""
        return self.tags.get("artist", "")

    @property
    def description(self) -> str:
        """Description of the music in words; empty if unknown."""
        return self.tags.get(DESCRIPTION, "")


def merge(statements: Iterable[Statement]) -> TrackMetadata:
    """Merge the fields of statements; of several for one field the first is used."""
    fields: dict[str, tuple[str, str]] = {}
    for statement in statements:
        for name, value in statement.fields.items():
            fields.setdefault(name, (value, statement.source))
    sources = {name: source for name, (_, source) in sorted(fields.items())}
    group, _ = fields.pop(GROUP, ("", ""))
    licence, _ = fields.pop(LICENCE, ("", ""))
    tags = {name: value for name, (value, _) in sorted(fields.items())}
    return TrackMetadata(group, licence, tags, sources)
