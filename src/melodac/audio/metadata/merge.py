"""One track's metadata from all that is said of it, each field with its source.

The first statement that has a field gives it; a field nobody has stays missing, and a file's name
is never a source. Any module above may import it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from melodac.audio.metadata.fields import DESCRIPTION, GROUP, LICENCE, Statement


@dataclass(frozen=True)
class TrackMetadata:
    """What is known of one track."""

    group: str = ""
    licence: str = ""
    """As its source spells it."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """All other fields, sorted by name."""
    sources: Mapping[str, str] = field(default_factory=dict[str, str])
    """For each tag, and for group and licence, the file it came from, or `embedded`."""

    @property
    def album(self) -> str:
        """Title of the album; empty if unknown."""
        return self.tags.get("album", "")

    @property
    def album_artist(self) -> str:
        """Whose album it is; empty if unknown."""
        return self.tags.get("album_artist", "")

    @property
    def artist(self) -> str:
        """Who plays; empty if unknown."""
        return self.tags.get("artist", "")

    @property
    def description(self) -> str:
        """Text that describes the music in words; empty if unknown."""
        return self.tags.get(DESCRIPTION, "")


def merge(statements: Iterable[Statement]) -> TrackMetadata:
    """All fields of the statements; of several for one field the first stands."""
    fields: dict[str, tuple[str, str]] = {}
    for statement in statements:
        for name, value in statement.fields.items():
            fields.setdefault(name, (value, statement.source))
    sources = {name: source for name, (_, source) in sorted(fields.items())}
    group, _ = fields.pop(GROUP, ("", ""))
    licence, _ = fields.pop(LICENCE, ("", ""))
    tags = {name: value for name, (value, _) in sorted(fields.items())}
    return TrackMetadata(group, licence, tags, sources)
