"""Recordings that belong together, whether by what is written of them or by how they sound.

Two recordings that share a key or sound alike are in one group, and so are all that a chain of such
links joins. Where a tag is ambiguous the keys join too much rather than too little: a false join
costs a little choice, a parted album leaks into validation.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from melodac.audio.metadata.fields import TrackMetadata
from melodac.audio.near_duplicates import NearDuplicate

GroupField = Literal["group", "album", "artist"]

_PLACEHOLDERS = frozenset({
    "", "-", "?", "n/a", "na", "none", "null", "self-titled", "single", "singles", "unknown",
    "unknown album", "unknown artist", "untitled", "untitled album", "v.a.", "va", "various",
    "various artists",
})  # fmt: skip
"""What programs and people write for: not known, or nobody in particular."""
_GUEST = re.compile(r"[\s(\[]+(?:feat\.?|ft\.?|featuring)\s.*")


def group_names(metadata: TrackMetadata, fields: Sequence[GroupField], folder: str) -> list[str]:
    """The keys of a track, sorted; none if nothing is known of it.

    An album is known by its title and its album artist. Without one it is known by title and artist
    and also by title and folder, so that a compilation stays whole although each track has another
    artist; albums of one title in other folders stay apart. A title that says nothing is no key.

    Args:
        metadata: What is known of the track.
        fields: What keeps tracks together.
        folder: Folder of the track, relative to the folder of music.

    Example:
        >>> solo = TrackMetadata(tags={"album": "Songs", "artist": "Ann (feat. Bob)"})
        >>> group_names(solo, ["artist"], "a")
        ['artist:ann', 'artist:ann (feat. bob)']
        >>> album = TrackMetadata(tags={"album": "Songs", "album_artist": "Ann"})
        >>> group_names(album, ["album"], "a")
        ['album:ann/songs']
    """
    keys: set[str] = set()
    if "group" in fields and metadata.group:
        keys.add(f"group:{metadata.group}")  # as written: it was meant as a key
    if "album" in fields:
        keys.update(f"album:{key}" for key in _album_keys(metadata, folder))
    if "artist" in fields:
        keys.update(f"artist:{name}" for name in _artists(metadata.artist))
    return sorted(keys)


def _album_keys(metadata: TrackMetadata, folder: str) -> set[str]:
    title = _fold(metadata.album)
    if title in _PLACEHOLDERS:
        return set()
    owner = _fold(metadata.album_artist)
    if owner not in _PLACEHOLDERS:
        return {f"{owner}/{title}"}
    return {f"{name}/{title}" for name in _artists(metadata.artist)} | {f"folder {folder}/{title}"}


def _artists(text: str) -> set[str]:
    """The artist as written, each of a list, and each without guests."""
    names = {_fold(name) for name in (text, *text.split(";"))}
    return (names | {_GUEST.sub("", name) for name in names}) - _PLACEHOLDERS


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Membership:
    """The group of one recording."""

    group: str
    """The smallest key in it, so a group keeps its name when a recording without new keys joins."""
    linked_by: tuple[str, ...]
    """Why, in words: kinds of keys another recording shares, and what sounds most alike."""


def form_groups(
    keys: Mapping[str, Sequence[str]], near_duplicates: Sequence[NearDuplicate]
) -> dict[str, Membership]:
    """The group of each recording.

    Args:
        keys: For each recording its keys, at least one, such as `album:ann/songs`.
        near_duplicates: Pairs of these recordings that sound alike.

    Example:
        >>> groups = form_groups({"a": ["album:x"], "b": ["album:x"], "c": ["name:c"]}, [])
        >>> [(member.group, member.linked_by) for member in groups.values()]
        [('album:x', ('album',)), ('album:x', ('album',)), ('name:c', ())]
    """
    forest = _Forest()
    for of_path in keys.values():
        for key in of_path:
            forest.join(of_path[0], key)
    for pair in near_duplicates:
        forest.join(keys[pair.first][0], keys[pair.second][0])
    sharers = Counter(key for of_path in keys.values() for key in set(of_path))
    alike = _most_alike(near_duplicates)
    return {
        path: Membership(
            group=forest.root(of_path[0]),
            linked_by=(
                *sorted({key.partition(":")[0] for key in of_path if sharers[key] > 1}),
                *alike[path],
            ),
        )
        for path, of_path in sorted(keys.items())
    }


def _most_alike(near_duplicates: Sequence[NearDuplicate]) -> defaultdict[str, list[str]]:
    found: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for pair in near_duplicates:
        found[pair.first].append((-pair.similarity, pair.second))
        found[pair.second].append((-pair.similarity, pair.first))
    words: defaultdict[str, list[str]] = defaultdict(list)
    for path, others in found.items():
        similarity, twin = min(others)
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        words[path].append(f"sounds like: {twin} ({-similarity:.2f}){more}")
    return words


class _Forest:
    """Keys in trees; the root of each is its smallest key."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, key: str) -> str:
        path = [key]
        while (parent := self._parents.get(path[-1], path[-1])) != path[-1]:
            path.append(parent)
        for step in path:
            self._parents[step] = path[-1]
        return path[-1]

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.root(first), self.root(second)))
        self._parents[high] = low
