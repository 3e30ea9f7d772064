"""Filter of tracks by their tags.

An entry `word` finds the word in any tag, `field=word` in that field only; words are compared with
whole items, so `piano` does not find `no piano`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from melodac.audio.metadata.fields import (
    GROUP,
    LICENCE,
    TrackMetadata,
    canonical_licence,
    canonical_name,
    clean_text,
)
from melodac.errors import ConfigError

_SEPARATORS = re.compile(r"[,;/|]")


class TagFilter:
    """Filter of tracks by `require` (each entry must be found) and `skip` (none may be found).

    Raises:
        ConfigError: If an entry names no word or no field.
    """

    def __init__(self, require: Sequence[str], skip: Sequence[str]) -> None:
        self._require = [_parse(entry, "ingest.require_tags") for entry in require]
        self._skip = [_parse(entry, "ingest.skip_tags") for entry in skip]

    def reason_to_skip(self, metadata: TrackMetadata) -> str:
        """Return the reason to leave a track out, in a few words; empty to keep it."""
        for entry in self._skip:
            if entry.is_found(metadata):
                return f"tags: has {entry.spelling!r} (ingest.skip_tags)"
        for entry in self._require:
            if not entry.is_found(metadata):
                return f"tags: lacks {entry.spelling!r} (ingest.require_tags)"
        return ""


@dataclass(frozen=True)
class _FilterEntry:
    spelling: str
    field: str
    """Field to search; empty for any tag."""
    word: str

    def is_found(self, metadata: TrackMetadata) -> bool:
        return any(self.word in _items(text) for text in self._texts(metadata))

    def _texts(self, metadata: TrackMetadata) -> Iterable[str]:
        if not self.field:
            return metadata.tags.values()
        if self.field == GROUP:
            return (metadata.group,)
        if self.field == LICENCE:  # by either spelling
            return (metadata.licence, canonical_licence(metadata.licence))
        return (metadata.tags.get(self.field, ""),)


def _parse(entry: str, key: str) -> _FilterEntry:
    field, equals, word = entry.rpartition("=") if entry.count("=") == 1 else ("", "", entry)
    malformed = entry.count("=") > 1 or not _fold(word) or (equals and not canonical_name(field))
    if malformed:
        raise ConfigError(f"{key}: expected word or field=word, got {entry!r}")
    return _FilterEntry(clean_text(entry), canonical_name(field), _fold(word))


def _items(text: str) -> set[str]:
    """Return the parts of a list written as text, and the whole, as a name may hold a separator."""
    return {_fold(part) for part in (*_SEPARATORS.split(text), text)}


def _fold(text: str) -> str:
    """Return a form that is equal for what a reader takes to be the same word."""
    return clean_text(unicodedata.normalize("NFKC", text)).casefold()
