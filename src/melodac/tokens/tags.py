"""Tags of a track as texts that a model reads: one form in training, in demos and in a prompt.

A description stands as it is, first. A list such as `tags: folk, piano` gives one text a word, any
other field its name and its value: `key G major`. What names a recording instead of saying how it
sounds is never read: a model that read it could only learn the recording by heart.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

SEPARATOR = ", "
"""Between two tags in one text; what a user writes between two words of a prompt."""

DESCRIPTION = "description"

LISTS = frozenset({"genre", "instrument", "keywords", "moods", "tags"})
"""Fields that say nothing by their name: each of their words stands for itself."""

UNREAD = frozenset({
    "album", "comment", "copyright", "date", "duration", "file", "filename", "id", "isrc", "length",
    "licence", "num_bars", "path", "source", "title", "track_number", "url",
})  # fmt: skip
"""Fields that name or measure a recording and say nothing of how it sounds."""

_WORD_ENDS = re.compile(r"\s*[,;|]\s*")


class TagText(NamedTuple):
    """Tags as one text."""

    text: str
    num_left_out: int
    """Tags for which there was no room."""


def tag_texts(tags: Mapping[str, str], path: str) -> tuple[str, ...]:
    """Every tag of a track that says how it sounds, each once.

    Args:
        tags: Values by the name of their field.
        path: File of the track; a value that repeats its name is left out.

    Example:
        >>> tag_texts({"tags": "folk, fiddle", "key": "G major", "title": "Barn"}, "a/b.ogg")
        ('folk', 'fiddle', 'key G major')
    """
    described = [tags[DESCRIPTION]] if DESCRIPTION in tags else []
    words = [word for name in sorted(LISTS & tags.keys()) for word in _WORD_ENDS.split(tags[name])]
    other = sorted(tags.keys() - LISTS - UNREAD - {DESCRIPTION})
    fields = [(f"{name} {tags[name]}", tags[name]) for name in other]
    said = [(text, text) for text in (*described, *words)] + fields
    names = _names_of(path)
    return tuple(dict.fromkeys(text for text, value in said if value and _fold(value) not in names))


def join_tags(tags: Iterable[str], max_bytes: int) -> TagText:
    """Tags in their order as one text; one that no longer fits is left out whole.

    Example:
        >>> join_tags(["folk", "a fiddle that never ends", "key G"], 12)
        TagText(text='folk, key G', num_left_out=1)
    """
    kept: list[str] = []
    num_bytes = num_left_out = 0
    for tag in tags:
        more = len(tag.encode("utf-8")) + (len(SEPARATOR) if kept else 0)
        if num_bytes + more > max_bytes:
            num_left_out += 1
            continue
        kept.append(tag)
        num_bytes += more
    return TagText(SEPARATOR.join(kept), num_left_out)


def _names_of(path: str) -> set[str]:
    file = PurePosixPath(path)
    return {_fold(path), _fold(file.name), _fold(file.stem)}


def _fold(text: str) -> str:
    """Equal for spellings of one file name: blue_door-1 and Blue Door 1."""
    return " ".join(re.split(r"[\s_\-]+", text.casefold())).strip()
