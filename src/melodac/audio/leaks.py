"""Proof that a split parts nothing that belongs together.

Written without the code that forms groups and splits, so that a mistake there is caught here. Any
module above may import it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from melodac.audio.near_duplicates import NearDuplicate
from melodac.errors import LeakError

LEAKS_NAMED = 3


@dataclass(frozen=True)
class Placed:
    """One recording of the final catalogue."""

    path: str
    split: str
    group: str
    audio_sha256: str
    """Of its decoded samples."""
    keys: tuple[str, ...]
    """What it is known by; whatever shares one must be in the same split."""


def check_leaks(recordings: Sequence[Placed], near_duplicates: Sequence[NearDuplicate]) -> None:
    """Pass if no group, key, sound or near-duplicate is in two splits.

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
