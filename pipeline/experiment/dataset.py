"""Dataset: codes and tags of the splits, as the stages after `index` read them, with identity."""

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
    """Record of the index stage: tracks of each split, and where their windows may start."""

    window_frames: int
    offsets: Literal["random", "fixed"]
    """Starts of training windows: drawn anew in each epoch, or fixed."""
    bars: dict[str, tuple[float, float]]
    """Bars of each track whose training windows start on bars: frame of the first bar line, and
    frames per bar."""
    store_fingerprint: str
    """Fingerprint of the indexed token store."""
    splits: dict[Split, tuple[str, ...]]
    """Ids of the tracks of each split, in the order that windows number them."""
    coverage: dict[Split, dict[str, int]]
    """Frames, windows and distinct starts of each split in one epoch."""
    fingerprint: str
    """Fingerprint of codes, splits and windows; runs are comparable only if it is equal."""

    def starts(self, split: Split) -> Starts:
        """Return where training windows of a split may start."""
        ids = self.splits[split]
        bars = tuple(Bars(*self.bars[name]) if name in self.bars else None for name in ids)
        return Starts(is_fixed=self.offsets == "fixed", bars=bars if any(bars) else ())


@dataclass(frozen=True)
class Dataset:
    """Codes of all splits in memory, in the order in which a model reads them."""

    index: IndexRecord
    header: StoreHeader
    layout: Layout
    codes: TokenArray
    store_vectors: CodeVectors | None
    """Code vectors of the store's codec; None if unknown."""

    @property
    def vectors(self) -> CodeVectors | None:
        """Code vectors of the columns that a model reads, one codebook per column."""
        if self.store_vectors is None:
            return None
        return self.store_vectors[list(self.layout.codebooks)]

    def split(self, name: Split) -> TokenArray:
        """Return the codes of one split.

        Raises:
            EmptySplitError: If no track of the split is long enough for a window.
        """
        ids = self.index.splits[name]
        if not ids:
            raise EmptySplitError(
                f"the {name} split has no track: add music or raise ingest.{name}_frac"
            )
        return self.codes.select(ids)

    def heard(self, name: Split) -> Bool[np.ndarray, "K U"]:
        """Return which codes of each codebook occur in a split."""
        tracks = self.split(name)
        heard = np.zeros((tracks.values.shape[1], CODEBOOK_SIZE), dtype=np.bool_)
        for track in range(len(tracks.track_ids)):
            for codebook, codes in enumerate(tracks.codes(track).T):
                heard[codebook, codes] = True
        return heard

    def tags(self, name: Split) -> tuple[tuple[str, ...], ...]:
        """Return the tag texts of each track of a split, in the split's order.

        Raises:
            StoreCorruptError: If the index stage left no tags for a track of the split.
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
    """Read the token store and its index, and check that they belong together.

    A store that lacks a channel of the layout raises `ConfigError`.

    Args:
        layout: Name from params, or the layout of a checkpoint.

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
