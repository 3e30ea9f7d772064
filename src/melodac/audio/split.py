"""Dividing groups of recordings between train, validation and test.

The order of groups is a pure function of (seed, group name), so the same music is divided the same
way on every machine, and a group is never parted. Any module above may import it.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal

from melodac.errors import EmptySplitError

Split = Literal["train", "validation", "test"]
NUM_SPLITS = 3


def split_groups(
    seconds_of_group: Mapping[str, float],
    *,
    validation_frac: float,
    test_frac: float,
    seed: int,
) -> dict[str, Split]:
    """The split of each group.

    In hash order, the first groups go to validation until it holds its share of the seconds, the
    next to test, all others to train; each split has at least one group.

    Args:
        seconds_of_group: Length of all recordings of each group.
        validation_frac: Least share of the seconds for validation, 0 to 1.
        test_frac: Least share of the seconds for test, 0 to 1.
        seed: Another seed gives another order.

    Raises:
        EmptySplitError: If there are fewer than three groups.
    """
    if len(seconds_of_group) < NUM_SPLITS:
        raise EmptySplitError(
            f"train, validation and test need a group each: got {len(seconds_of_group)} "
            f"({', '.join(sorted(seconds_of_group)) or 'none'}), at least {NUM_SPLITS} are needed; "
            "add music, or give recordings that are unrelated different values of `group` in "
            "metadata.csv"
        )
    waiting = sorted(seconds_of_group, key=lambda group: _rank(seed, group), reverse=True)
    total_s = sum(seconds_of_group[group] for group in sorted(seconds_of_group))
    splits: dict[str, Split] = {}
    shares: tuple[tuple[Split, float], ...] = (("validation", validation_frac), ("test", test_frac))
    for kept_back, (split, frac) in zip((2, 1), shares, strict=True):
        taken_s = 0.0
        while len(waiting) > kept_back and taken_s < max(frac * total_s, 1e-9):
            group = waiting.pop()
            splits[group] = split
            taken_s += seconds_of_group[group]
    for group in waiting:
        splits[group] = "train"
    return splits


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
