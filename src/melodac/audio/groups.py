"""Recordings that belong together, whether by what is written of them or by how they sound.

Two recordings that share a key or sound alike are in one group, and so are all that a chain of such
links joins. Any module above may import it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from melodac.audio.near_duplicates import NearDuplicate


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
