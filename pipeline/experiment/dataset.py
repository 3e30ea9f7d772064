"""Codes and tags of one split, as the stages after `index` read them, and what identifies them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from melodac.config import Section
from melodac.errors import EmptySplitError, StoreCorruptError
from melodac.tokens.array import TokenArray
from melodac.tokens.layout import Layout, LayoutName, choose_layout
from melodac.tokens.store.header import CodeVectors, StoreHeader
from melodac.tokens.store.reader import open_store
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.tokens.windows import Bars, Starts
from pipeline import paths
from pipeline.records import Split, read_json


class IndexRecord(Section):
    """What the index stage decided: which tracks give windows to which split, and from where."""

    window_frames: int
    offsets: Literal["random", "fixed"]
    """Whether training windows start anew in each epoch."""
    bars: dict[str, tuple[float, float]]
    """For each track whose training windows start on bars: frame of its first bar line, frames a
    bar."""
    store_fingerprint: str
    """Fingerprint of the token store that was indexed."""
    splits: dict[Split, tuple[str, ...]]
    """Ids of the tracks of each split, in the order that windows number them."""
    coverage: dict[Split, dict[str, int]]
    """Frames, windows and distinct starts of each split in one epoch."""
    fingerprint: str
    """Of codes, splits and windows: runs are comparable only where it is equal."""

    def starts(self, split: Split) -> Starts:
        """Where training windows of a split may start."""
        ids = self.splits[split]
        bars = tuple(Bars(*self.bars[name]) if name in self.bars else None for name in ids)
        return Starts(is_fixed=self.offsets == "fixed", bars=bars if any(bars) else ())


@dataclass(frozen=True)
class Dataset:
    """Every code in memory, in the order in which a model reads them, and how it is split."""

    index: IndexRecord
    header: StoreHeader
    layout: Layout
    codes: TokenArray
    store_vectors: CodeVectors | None
    """What each code of the store's codec sounds like; None if nobody knows."""

    @property
    def vectors(self) -> CodeVectors | None:
        """What each code sounds like that a model reads: a codebook for each of its columns."""
        if self.store_vectors is None:
            return None
        return self.store_vectors[list(self.layout.codebooks)]

    def split(self, name: Split) -> TokenArray:
        """Codes of one split.

        Raises:
            EmptySplitError: If no track of the split is long enough to give a window.
        """
        ids = self.index.splits[name]
        if not ids:
            raise EmptySplitError(
                f"the {name} split has no track: add music or raise ingest.{name}_frac"
            )
        return self.codes.select(ids)

    def heard(self, name: Split) -> Bool[np.ndarray, "K U"]:
        """Which codes of each codebook occur in a split."""
        tracks = self.split(name)
        heard = np.zeros((tracks.values.shape[1], CODEBOOK_SIZE), dtype=np.bool_)
        for track in range(len(tracks.track_ids)):
            for codebook, codes in enumerate(tracks.codes(track).T):
                heard[codebook, codes] = True
        return heard

    def tags(self, name: Split) -> tuple[tuple[str, ...], ...]:
        """What each track of a split is said to be, as texts, in the split's order.

        Raises:
            StoreCorruptError: If the index stage left no tags of a track of the split.
        """
        texts: dict[str, list[str]] = read_json(paths.INDEX_TAGS)
        missing = [track for track in self.index.splits[name] if track not in texts]
        if missing:
            raise StoreCorruptError(
                f"{paths.INDEX_TAGS} lacks track {missing[0]} of the {name} split: run the index "
                "stage again"
            )
        return tuple(tuple(texts[track]) for track in self.index.splits[name])


def read_dataset(layout: LayoutName | Layout) -> Dataset:
    """The token store and its index, checked to belong together.

    A store that lacks a channel of the layout is refused with `ConfigError`.

    Args:
        layout: The name that params give, or what a checkpoint was trained with.

    Raises:
        StoreCorruptError: If the index was made from another store.
    """
    index = IndexRecord.model_validate_json(paths.INDEX.read_text(encoding="utf-8"))
    store = open_store(paths.TOKENS)
    if store.fingerprint != index.store_fingerprint:
        raise StoreCorruptError(
            f"{paths.INDEX} was made from store {index.store_fingerprint[:12]}, "
            f"{paths.TOKENS} is {store.fingerprint[:12]}: run the index stage again"
        )
    chosen = layout if isinstance(layout, Layout) else choose_layout(layout, store.header)
    codes = chosen.read(store.load(), store.header)
    return Dataset(index, store.header, chosen, codes, store.vectors)
