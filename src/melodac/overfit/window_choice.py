"""Choice of the windows for the overfit gate: windows of music that their prefixes tell apart.

Two windows that begin with the same codes cannot be told apart at temperature 0: a free run
continues both alike, so a sound model fails the gate. A window of equal frames fails it too: after
a hundred of them the model cannot know when they end. Both are visible in the codes alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt16

from melodac.errors import ConfigError, TrainingError
from melodac.tokens.array import TokenArray, array_of_tracks
from melodac.tokens.delay import DelayPattern, cell_steps
from melodac.tokens.windows import Window, WindowTable, evaluation_windows
from melodac.training.config import OverfitConfig
from melodac.training.data import TrainingData

LEAST_FRAMES = 16
"""Shortest windows the gate falls back to if no track is as long as the config asks."""

LEAST_DISTINCT = (0.5, 0.125)
"""Least shares of distinct frames in a window: first the search asks for the first, then for the
second. Below that a window is silence or a standing tone, and memorising it proves nothing."""

LEAST_DIFFERING = 0.25
"""Share of cells in which two windows must differ, of those seen before the first scored cell."""


class GateWindows(NamedTuple):
    """Windows the gate memorises."""

    data: TrainingData
    """Each window as a track of its own that ends where the window ends."""
    config: OverfitConfig
    """Config with the windows, frames and prefix that were found."""
    notes: tuple[str, ...]
    """One sentence for each of these settings that differs from the requested config."""


def choose_windows(data: TrainingData, pattern: DelayPattern, config: OverfitConfig) -> GateWindows:
    """Draw windows of the training split by the gate's seed, one per track before a second of any.

    If the prefix does not tell the windows apart, it is doubled, up to half a window. If no track
    is long enough, windows are shorter; if too few differ, fewer are taken. Raises `ConfigError`
    for tracks too short for any window and `TrainingError` for silence.

    Args:
        data: Data of the real run.
        pattern: Delay pattern of the real run.
        config: Number and length of windows, and length of the prefix.
    """
    frames = _longest_frames(data.train, config)
    table = evaluation_windows([int(length) for length in data.train.lengths], frames)
    table = table.take(np.flatnonzero(table.num_frames == frames))
    search = _Search(data.train, table.take(_shuffle(table, config.seed)), frames, pattern)
    is_short = frames < config.window_frames
    prefix = min(config.prefix_frames, frames // 2) if is_short else config.prefix_frames
    rows, prefix = search.find(config.windows, prefix)
    windows = [search.table[row] for row in rows]
    found = config.model_copy(
        update={"windows": len(rows), "window_frames": frames, "prefix_frames": prefix}
    )
    cut = array_of_tracks([
        (f"{data.train.track_ids[window.track]}+{window.start}", search.codes(row))
        for row, window in zip(rows, windows, strict=True)
    ])
    tags = tuple(data.train_tags[window.track] for window in windows) if data.train_tags else ()
    return GateWindows(
        TrainingData(cut, cut, frames, train_tags=tags, validation_tags=tags),
        found,
        tuple(_explain(config, found)),
    )


def differing_share(
    one: UInt16[np.ndarray, "T K"],
    other: UInt16[np.ndarray, "T K"],
    pattern: DelayPattern,
    *,
    prefix_frames: int,
) -> float:
    """Return the share of differing cells among those a free run sees before its first choice.

    The delay puts some cells of the prefix behind the first chosen cell; these come too late to
    tell two windows apart.

    Example:
        >>> from melodac.tokens.delay import build_pattern
        >>> one = np.array([[1, 1], [2, 2], [3, 3]], dtype=np.uint16)
        >>> other = np.array([[1, 1], [2, 7], [3, 3]], dtype=np.uint16)
        >>> for delay in ([0, 0], [0, 1]):
        ...     pattern = build_pattern(delay, num_codebooks=2)
        ...     print(round(differing_share(one, other, pattern, prefix_frames=2), 2))
        0.25
        0.0
    """
    steps = cell_steps(pattern, len(one)).numpy().T
    first = steps[prefix_frames:].min()
    seen = steps[:prefix_frames] < first
    return float((one != other)[:prefix_frames][seen].mean())


class _Search:
    """Search over candidate windows, in a fixed order."""

    def __init__(
        self, array: TokenArray, table: WindowTable, frames: int, pattern: DelayPattern
    ) -> None:
        self.table = table
        self._array = array
        self._frames = frames
        self._pattern = pattern
        self._distinct: dict[int, float] = {}

    def codes(self, row: int) -> UInt16[np.ndarray, "T K"]:
        window: Window = self.table[row]
        return self._array.codes(window.track)[window.start : window.start + self._frames]

    def find(self, count: int, prefix_frames: int) -> tuple[list[int], int]:
        """Return rows of windows that can be told apart, at most `count`, and the prefix used."""
        best: list[int] = []
        best_prefix = prefix_frames
        for least in LEAST_DISTINCT:
            for prefix in _doubled(prefix_frames, self._frames // 2):
                rows = self._take_apart(count, prefix, least)
                if len(rows) > len(best):
                    best, best_prefix = rows, prefix
                if len(best) == count:
                    return best, best_prefix
        if not best:
            most = max(self._distinct.values()) * self._frames
            raise TrainingError(
                f"the overfit gate finds no music to memorise: none of {len(self.table)} windows "
                f"of {self._frames} frames holds more than {most:.0f} distinct frames, at least "
                f"{LEAST_DISTINCT[-1] * self._frames:.0f} are asked for. The training tracks are "
                "silence or standing tones: look at data/index/tracks.csv and at the recordings, "
                "or set overfit.action to off"
            )
        return best, best_prefix

    def _take_apart(self, count: int, prefix: int, least: float) -> list[int]:
        taken: list[int] = []
        for row in range(len(self.table)):
            if len(taken) == count:
                break
            if self._distinct_share(row) >= least and all(
                self._differ(row, other, prefix) >= LEAST_DIFFERING for other in taken
            ):
                taken.append(row)
        return taken

    def _distinct_share(self, row: int) -> float:
        if row not in self._distinct:
            self._distinct[row] = len(np.unique(self.codes(row), axis=0)) / self._frames
        return self._distinct[row]

    def _differ(self, row: int, other: int, prefix: int) -> float:
        return differing_share(
            self.codes(row), self.codes(other), self._pattern, prefix_frames=prefix
        )


def _longest_frames(array: TokenArray, config: OverfitConfig) -> int:
    """Return the largest window length, up to the config's, at which there are enough windows.

    Raises:
        ConfigError: If no track is as long as the shortest window.
    """
    for frames in range(config.window_frames, LEAST_FRAMES - 1, -1):
        if int((array.lengths // frames).sum()) >= config.windows:
            return frames
    longest = int(array.lengths.max())
    if longest >= LEAST_FRAMES:
        return LEAST_FRAMES
    raise ConfigError(
        f"the overfit gate needs a training track of at least {LEAST_FRAMES} frames, the longest "
        f"has {longest}: raise index.min_track_frames or add music"
    )


def _shuffle(table: WindowTable, seed: int) -> Int64[np.ndarray, " B"]:
    """Shuffle the windows so that every track has its first turn before any has its second.

    Windows of one track may repeat each other; different tracks differ.
    """
    order = np.random.default_rng(seed).permutation(len(table))
    tracks = table.tracks[order]
    by_track = np.argsort(tracks, kind="stable")
    starts = np.flatnonzero(np.diff(tracks[by_track], prepend=-1))
    turns = np.empty(len(order), dtype=np.int64)
    turns[by_track] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[np.argsort(turns, kind="stable")]


def _doubled(first: int, last: int) -> Iterator[int]:
    """Yield the first, its double, and so on below the last, then the larger of first and last.

    Example:
        >>> list(_doubled(12, 64)), list(_doubled(100, 64))
        ([12, 24, 48, 64], [100])
    """
    prefix = first
    while prefix < last:
        yield prefix
        prefix *= 2
    yield max(first, last)


def _explain(asked: OverfitConfig, found: OverfitConfig) -> Iterator[str]:
    if found.window_frames < asked.window_frames:
        yield (
            f"windows have {found.window_frames} frames instead of {asked.window_frames}: the "
            f"training tracks do not hold {asked.windows} that are longer"
        )
    if found.windows < asked.windows:
        yield (
            f"of {asked.windows} windows {found.windows} can be memorised: no more hold music and "
            f"differ in their first {found.prefix_frames} frames"
        )
    if found.prefix_frames > asked.prefix_frames:
        yield (
            f"free runs are given {found.prefix_frames} frames instead of {asked.prefix_frames}: "
            "fewer do not tell the windows apart"
        )
