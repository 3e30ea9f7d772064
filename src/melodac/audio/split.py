"""Groups of related recordings, and the split into train, validation and test.

Two recordings that share a key or sound alike are in one group, and so are all recordings joined by
a chain of such links. Where a tag is ambiguous the keys join too much rather than too little: a
false join costs a little choice, a divided album leaks into validation.

Each group has a place between 0 and 1 that depends on the seed and its name alone: the lowest are
validation, the highest test. So a group keeps its split when other music is added or removed, and
no state is needed. Only if a share would be far off do the groups nearest to the border change
sides. `check_leaks` uses none of the code that forms groups and splits, so it catches a mistake
there.
"""

import hashlib
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from melodac.audio.metadata.fields import TrackMetadata
from melodac.audio.near_duplicates import NearDuplicate
from melodac.errors import EmptySplitError, LeakError

GroupField = Literal["group", "album", "artist"]

_PLACEHOLDERS = frozenset({
    "", "-", "?", "n/a", "na", "none", "null", "self-titled", "single", "singles", "unknown",
    "unknown album", "unknown artist", "untitled", "untitled album", "v.a.", "va", "various",
    "various artists",
})  # fmt: skip
"""Values that mean: not known, or nobody in particular."""
_GUEST = re.compile(r"[\s(\[]+(?:feat\.?|ft\.?|featuring)\s.*")


def group_names(metadata: TrackMetadata, fields: Sequence[GroupField], folder: str) -> list[str]:
    """Return the keys of a track, sorted; none if nothing is known of it.

    An album is identified by title and album artist. Without one it is identified by title and
    artist and also by title and folder, so that a compilation stays whole although its tracks have
    different artists; albums of one title in other folders stay apart. A placeholder is no key.

    Args:
        metadata: Metadata of the track.
        fields: Fields that keep tracks together.
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
        keys.add(f"group:{metadata.group}")  # as written, since it was meant as a key
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
    """Return the artist as written, each of a list, and each without guests."""
    names = {_fold(name) for name in (text, *text.split(";"))}
    return (names | {_GUEST.sub("", name) for name in names}) - _PLACEHOLDERS


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Membership:
    """Group of one recording."""

    group: str
    """Smallest key in it, so a group keeps its name when a recording without new keys joins."""
    linked_by: tuple[str, ...]
    """Reasons, in words: kinds of keys shared with another recording, and the most similar one."""


def form_groups(
    keys: Mapping[str, Sequence[str]], near_duplicates: Sequence[NearDuplicate]
) -> dict[str, Membership]:
    """Assign each recording to a group.

    Args:
        keys: Keys of each recording, at least one, such as `album:ann/songs`.
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
    """Union-find over keys; the root of each tree is its smallest key."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, key: str) -> str:
        path = [key]
        while (parent := self._parents.get(path[-1], path[-1])) != path[-1]:
            path.append(parent)
        # path compression: all keys on the way point to the root from now on
        for step in path:
            self._parents[step] = path[-1]
        return path[-1]

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.root(first), self.root(second)))
        self._parents[high] = low


Split = Literal["train", "validation", "test"]
NUM_SPLITS = 3
LEAST_SHARE = 0.5
MOST_SHARE = 2.0
"""Factor of the requested share: up to it chance decides and nothing is moved."""
MOST_GROWN = 0.5
"""Share of all seconds up to which a split grows to reach its minimum; beyond, music is too scarce.
"""


@dataclass(frozen=True)
class SplitPlan:
    """Shares of the splits."""

    validation_frac: float
    """Share of validation, 0 to 0.5."""
    test_frac: float
    """Share of test, 0 to 0.5."""
    min_validation_s: float
    seed: int
    """Seed of the places; another seed gives another split."""


def split_groups(seconds_of_group: Mapping[str, float], plan: SplitPlan) -> dict[str, Split]:
    """Assign each group to a split; each split gets at least one.

    A group with more seconds than twice the smaller share goes to train, unless half of all groups
    are that large: one long recording must not become the whole validation set.

    Args:
        seconds_of_group: Total seconds of the recordings of each group.
        plan: Shares of the splits.

    Raises:
        EmptySplitError: If there are fewer than three groups or too little music to validate with.
    """
    if len(seconds_of_group) < NUM_SPLITS:
        raise EmptySplitError(
            f"train, validation and test need a group each: got {len(seconds_of_group)} "
            f"({', '.join(sorted(seconds_of_group)) or 'none'}), at least {NUM_SPLITS} are needed; "
            "add music that is not related, or let less of it be related (ingest.group_by, "
            "ingest.near_duplicate_similarity, `group` in metadata.csv)"
        )
    total_s = sum(seconds_of_group[group] for group in sorted(seconds_of_group))
    places = {group: _place(plan.seed, group) for group in seconds_of_group}
    small = _small_groups(seconds_of_group, total_s, min(plan.validation_frac, plan.test_frac))
    waiting = sorted(small, key=lambda group: (places[group], group))
    spare = min(1, len(seconds_of_group) - len(small))  # a large group is train already

    validation = waiting[
        : _count(
            [seconds_of_group[group] for group in waiting],
            placed=sum(places[group] < plan.validation_frac for group in waiting),
            frac=plan.validation_frac,
            total_s=total_s,
            least_s=plan.min_validation_s,
            most_groups=len(waiting) - 2 + spare,
        )
    ]
    _check_validation(sum(seconds_of_group[group] for group in validation), total_s, plan)
    rest = waiting[len(validation) :][::-1]
    test = rest[
        : _count(
            [seconds_of_group[group] for group in rest],
            placed=sum(places[group] >= 1.0 - plan.test_frac for group in rest),
            frac=plan.test_frac,
            total_s=total_s,
            least_s=0.0,
            most_groups=len(rest) - 1 + spare,
        )
    ]
    chosen: dict[str, Split] = {}
    chosen.update(dict.fromkeys(validation, "validation"))
    chosen.update(dict.fromkeys(test, "test"))
    return {group: chosen.get(group, "train") for group in sorted(seconds_of_group)}


def _place(seed: int, group: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / (1 << 64)


def _small_groups(seconds: Mapping[str, float], total_s: float, frac: float) -> list[str]:
    largest_s = max(MOST_SHARE * frac * total_s, statistics.median(seconds.values()))
    return [group for group, group_s in seconds.items() if group_s <= largest_s]


def _count(
    seconds: Sequence[float],
    *,
    placed: int,
    frac: float,
    total_s: float,
    least_s: float,
    most_groups: int,
) -> int:
    """Return how many of the first groups a split takes.

    It takes those placed in it, or as few more or fewer as bring its share into range.
    """
    least_s = max(least_s, LEAST_SHARE * frac * total_s)
    most_s = max(least_s, MOST_SHARE * frac * total_s)
    count = max(1, min(placed, most_groups))
    held_s = sum(seconds[:count])
    while count > 1 and held_s > most_s and held_s - seconds[count - 1] >= least_s:
        count -= 1
        held_s -= seconds[count]
    while count < most_groups and held_s < least_s:
        if held_s + seconds[count] > MOST_GROWN * total_s:
            break
        held_s += seconds[count]
        count += 1
    return count


def _check_validation(validation_s: float, total_s: float, plan: SplitPlan) -> None:
    if validation_s < plan.min_validation_s:
        raise EmptySplitError(
            f"too little music to validate with: {validation_s:.1f} s of {total_s:.1f} s can be "
            f"spared, at least {plan.min_validation_s:g} s are needed; "
            "add music or lower ingest.min_validation_s"
        )


LEAKS_NAMED = 3


@dataclass(frozen=True)
class Placed:
    """Recording of the final catalogue."""

    path: str
    split: str
    group: str
    audio_sha256: str
    """Hash of its decoded samples."""
    keys: tuple[str, ...]
    """Keys of the recording; recordings that share one must be in the same split."""


def check_leaks(recordings: Sequence[Placed], near_duplicates: Sequence[NearDuplicate]) -> None:
    """Check that no group, key, sound or near-duplicate is in two splits.

    Raises:
        LeakError: If one is, with the recordings and the reason.
    """
    holders: defaultdict[str, list[Placed]] = defaultdict(list)
    for recording in recordings:
        marks = (f"group {recording.group}", f"sound {recording.audio_sha256}", *recording.keys)
        for mark in marks:
            holders[mark].append(recording)
    placed = {recording.path: recording for recording in recordings}
    pairs = [
        (f"sounds alike ({pair.similarity:.2f})", placed[pair.first], placed[pair.second])
        for pair in near_duplicates
    ] + [(mark, alike[0], other) for mark, alike in holders.items() for other in alike[1:]]
    leaks = sorted(
        f"{first.path} ({first.split}) and {second.path} ({second.split}): {why}"
        for why, first, second in pairs
        if first.split != second.split
    )
    if leaks:
        more = f"; and {len(leaks) - LEAKS_NAMED} more" if len(leaks) > LEAKS_NAMED else ""
        raise LeakError(
            f"recordings that belong together are in two splits: {'; '.join(leaks[:LEAKS_NAMED])}"
            f"{more}; this is a mistake in melodac, not in the music, please report it"
        )
