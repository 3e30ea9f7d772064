"""Codes of one split, as the stages after `index` read them, and what identifies that data."""

from dataclasses import dataclass

from melodac.config import Section
from melodac.errors import EmptySplitError, StoreCorruptError
from melodac.tokens.array import TokenArray
from melodac.tokens.header import StoreHeader
from melodac.tokens.store import open_store
from pipeline import paths
from pipeline.records import Split


class IndexRecord(Section):
    """What the index stage decided: which tracks give windows to which split."""

    window_frames: int
    store_fingerprint: str
    """Fingerprint of the token store that was indexed."""
    splits: dict[Split, tuple[str, ...]]
    """Ids of the tracks of each split, in the order that windows number them."""
    coverage: dict[Split, dict[str, int]]
    """Frames, windows and distinct starts of each split."""
    fingerprint: str
    """Of codes, splits and window length: runs are comparable only where it is equal."""


@dataclass(frozen=True)
class Dataset:
    """Every code in memory, and how it is split."""

    index: IndexRecord
    header: StoreHeader
    codes: TokenArray

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


def read_dataset() -> Dataset:
    """The token store and its index, checked to belong together.

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
    return Dataset(index, store.header, store.load())
