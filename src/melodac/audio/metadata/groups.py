"""Keys that tracks of one recording family share, so that a split never parts them.

Two tracks that share any key belong together. Where a tag is ambiguous the keys join too much
rather than too little: a false join costs a little choice, a parted album leaks into validation.
Any module above may import it.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from melodac.audio.metadata.merge import TrackMetadata

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
