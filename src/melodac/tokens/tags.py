"""Tags of a track as the text that a model reads; one form for training, demos and prompts.

A description comes first, unchanged. A list such as `tags: folk, piano` gives one text per word,
any other field its name and value: `key G major`. Fields that name a recording without describing
its sound are left out: from them a model could only memorise the recording.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

SEPARATOR = ", "
"""Separator of two tags in one text, as a user writes it between two words of a prompt."""

DESCRIPTION = "description"

LISTS = frozenset({"genre", "instrument", "keywords", "moods", "tags"})
"""Fields whose words need no field name to be understood."""

UNREAD = frozenset({
    "album", "comment", "copyright", "date", "duration", "file", "filename", "id", "isrc", "length",
    "licence", "num_bars", "path", "source", "title", "track_number", "url",
})  # fmt: skip
"""Fields that name or measure a recording and do not describe its sound."""

_WORD_ENDS = re.compile(r"\s*[,;|]\s*")


class TagText(NamedTuple):
    """Tags as one text."""

    text: str
    num_left_out: int
    """Tags left out for lack of room."""


def tag_texts(tags: Mapping[str, str], path: str) -> tuple[str, ...]:
    """Return every tag of a track that describes its sound, each once.

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
    """Join tags in their order to one text; a tag that does not fit is left out whole.

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
    """Return a form that is equal for spellings of one file name: blue_door-1 and Blue Door 1."""
    return " ".join(re.split(r"[\s_\-]+", text.casefold())).strip()
