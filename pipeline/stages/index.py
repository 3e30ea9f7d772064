"""Token store + catalogue -> windows of each split, token statistics, n-gram baselines.

All cropping is decided here: which tracks give windows, how long a window is and where it may
start. The index does not depend on the delay pattern or the layout: the frames beyond its end that
a pattern needs are added when a window is read, and every column of the store is counted.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from melodac.errors import EmptySplitError, TokenError
from melodac.evaluation.ngrams import fit_baseline, score_baseline
from melodac.tokens.array import TokenArray
from melodac.tokens.layout import Column
from melodac.tokens.statistics import TokenStatistics, measure_statistics
from melodac.tokens.store.header import StoreHeader
from melodac.tokens.store.reader import TokenStore, open_store
from melodac.tokens.tags import tag_texts
from melodac.tokens.windows import (
    Coverage,
    Starts,
    WindowTable,
    coverage,
    evaluation_windows,
    training_windows,
)
from pipeline import paths
from pipeline.experiment.dataset import IndexRecord
from pipeline.indexing import (
    FoundBars,
    TrackRow,
    describe_sizes,
    find_bars,
    log_outliers,
    tabulate_tracks,
)
from pipeline.logs import progress_bar
from pipeline.params import IndexParams, Params
from pipeline.records import (
    Outcome,
    Split,
    TrackRecord,
    format_csv,
    read_catalogue,
    read_normalized,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)
SPLITS: tuple[Split, ...] = get_args(Split)
SHORT = "shorter than index.min_track_frames"
NOT_ENCODED = "not in the token store"
EPOCHS = 8
"""Epochs over which the coverage of the training windows is measured."""


def run(params: Params) -> Outcome:
    """Decide the windows, count the codes and score the n-gram baselines.

    Raises:
        EmptySplitError: If a split has no track that is long enough.
    """
    store = open_store(paths.TOKENS)
    tracks, held = read_catalogue(paths.CATALOGUE), set(store.track_ids)
    encoded = [track for track in tracks if track.id in held]
    eligible = [t for t in encoded if store.num_frames(t.id) >= params.index.min_track_frames]
    splits: dict[Split, tuple[str, ...]] = {
        split: tuple(sorted(track.id for track in eligible if track.split == split))
        for split in SPLITS
    }
    for split, ids in splits.items():
        if not ids:
            raise EmptySplitError(
                f"the {split} split has no track of {params.index.min_track_frames} frames: "
                f"lower index.min_track_frames, raise ingest.{split}_frac or add music"
            )
    with progress_bar(total=6, unit="step", description="index") as advance:
        codes = store.load()
        arrays: dict[Split, TokenArray] = {s: codes.select(ids) for s, ids in splits.items()}
        found = _find_bars(eligible, store, params.index)
        advance("codes read")
        index = _decide(store, splits, arrays, params=params.index, found=found)
        write_json(paths.INDEX, index.model_dump(mode="json"))
        # a file of its own, not the catalogue: a change of columns that no model reads, such as
        # the path, must not make DVC train again
        write_json(paths.INDEX_TAGS, {t.id: tag_texts(t.tags, t.path) for t in eligible})
        advance("windows decided")
        reach = _look_ahead(index, arrays["train"])
        advance("epochs looked at")
        windows = _windows_per_track(index, arrays)
        rows = tabulate_tracks(encoded, codes, windows)
        write_text(paths.INDEX_TRACKS, format_csv(TrackRow._fields, rows))
        advance("tracks described")
        statistics = measure_statistics(
            arrays["train"], frame_rate_hz=store.header.sample_rate_hz / store.header.hop
        )
        advance("codes counted")
        baselines = _score_baselines(arrays)
        advance("baselines scored")
    columns = _columns_read(store.header)
    sizes = describe_sizes(statistics.num_frames, columns, store.vectors)
    write_json(
        paths.BASELINES,
        {
            **baselines,
            "columns": _name_columns(store.header),
            "train_statistics": statistics.model_dump(mode="json"),
            "sizes": sizes,
        },
    )
    skipped = {
        SHORT: len(encoded) - len(eligible),
        NOT_ENCODED: len(tracks) - len(encoded),
    }
    return Outcome(
        counts={f"{split} tracks": len(ids) for split, ids in splits.items()},
        skipped={reason: count for reason, count in skipped.items() if count},
        metrics={
            **_describe(statistics),
            "validation_unigram_nats": _mean(baselines["validation"]["unigram"]),
            "validation_bigram_nats": _mean(baselines["validation"]["bigram"]),
            "outlier_tracks": log_outliers(rows),
            "short_tracks": skipped[SHORT],
            "codes_per_parameter": {k: size["codes_per_parameter"] for k, size in sizes.items()},
            "windows_per_epoch": index.coverage["train"]["windows"],
            "frames_seen_share": _share(reach.num_frames_seen, reach.num_frames),
            f"starts_seen_share_{EPOCHS}_epochs": _share(reach.num_distinct, reach.num_possible),
            "tracks_on_bars": len(index.bars),
        },
    )


def _find_bars(tracks: Sequence[TrackRecord], store: TokenStore, index: IndexParams) -> FoundBars:
    if index.align == "none":
        return FoundBars({}, {}, 0)
    start_samples = {row.id: row.start_sample for row in read_normalized(paths.NORMALIZED_TABLE)}
    training = [track for track in tracks if track.split == "train"]
    found = find_bars(
        training,
        store.header,
        start_samples=start_samples,
        num_frames={track.id: store.num_frames(track.id) for track in training},
    )
    log.info(
        "windows of %d of %d training tracks start on bars, %d of them taken to be in 4/4",
        len(found.bars),
        len(training),
        found.num_assumed,
    )
    for reason, ids in sorted(found.without.items()):
        log.warning("%d training tracks have windows anywhere: %s", len(ids), reason)
    return found


def _decide(
    store: TokenStore,
    splits: dict[Split, tuple[str, ...]],
    arrays: Mapping[Split, TokenArray],
    *,
    params: IndexParams,
    found: FoundBars,
) -> IndexRecord:
    bars = {name: (float(bar.first), float(bar.length)) for name, bar in found.bars.items()}
    parts = [store.fingerprint, dict(splits), params.model_dump(mode="json"), bars]
    index = IndexRecord(
        window_frames=params.window_frames,
        offsets=params.offsets,
        bars=bars,
        store_fingerprint=store.fingerprint,
        splits=splits,
        coverage={},
        fingerprint=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
    )
    covered = {split: _cover(index, split, arrays[split]) for split in SPLITS}
    return index.model_copy(update={"coverage": covered})


def _cover(index: IndexRecord, split: Split, array: TokenArray) -> dict[str, int]:
    table, starts = _windows(index, split, array), _starts(index, split)
    found = coverage([table], _lengths(array), index.window_frames, starts=starts)
    return {"windows": len(table), **found._asdict()}


def _windows(index: IndexRecord, split: Split, array: TokenArray, epoch: int = 0) -> WindowTable:
    lengths, frames = _lengths(array), index.window_frames
    if split != "train":
        return evaluation_windows(lengths, frames)
    # another seed gives other windows; their number and coverage are nearly the same
    return training_windows(lengths, frames, seed=0, epoch=epoch, starts=index.starts("train"))


def _starts(index: IndexRecord, split: Split) -> Starts:
    return index.starts(split) if split == "train" else Starts()


def _lengths(array: TokenArray) -> list[int]:
    return [int(length) for length in array.lengths]


def _look_ahead(index: IndexRecord, train: TokenArray) -> Coverage:
    """Measure the coverage of the first `EPOCHS` epochs, and check it against `index.offsets`.

    Raises:
        TokenError: If random windows do not move from epoch to epoch, or frames are lost.
    """
    tables = [_windows(index, "train", train, epoch) for epoch in range(EPOCHS)]
    starts = index.starts("train")
    one, many = (
        coverage(part, _lengths(train), index.window_frames, starts=starts)
        for part in (tables[:1], tables)
    )
    log.info(
        "train windows: %d an epoch cover %d of %d frames; of %d possible starts %d epochs see %d",
        len(tables[0]),
        one.num_frames_seen,
        one.num_frames,
        many.num_possible,
        EPOCHS,
        many.num_distinct,
    )
    if starts.is_fixed and many.num_distinct < many.num_possible:
        log.warning(
            "index.offsets is fixed: %d of %d starts are never used, whatever the epochs",
            many.num_possible - many.num_distinct,
            many.num_possible,
        )
    if not starts.is_fixed and many.num_distinct == one.num_distinct < one.num_possible:
        raise TokenError(
            f"{EPOCHS} epochs see the {one.num_distinct} windows of the first one only, of "
            f"{one.num_possible}: training windows do not move"
        )
    if many.num_frames_seen < many.num_frames:
        if not index.bars:
            raise TokenError(
                f"{many.num_frames - many.num_frames_seen} frames are in no training window"
            )
        longest = max(length for _, length in index.bars.values())
        log.warning(
            "%d of %d training frames are in no window: they lie before the first bar line, or in "
            "the rest of a bar longer than a window (longest bar: %.1f frames, "
            "index.window_frames: %d)",
            many.num_frames - many.num_frames_seen,
            many.num_frames,
            longest,
            index.window_frames,
        )
    return many


def _windows_per_track(index: IndexRecord, arrays: Mapping[Split, TokenArray]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for split, array in arrays.items():
        found = np.bincount(_windows(index, split, array).tracks, minlength=len(array.track_ids))
        counts.update(dict(zip(array.track_ids, found.tolist(), strict=True)))
    return counts


def _score_baselines(arrays: Mapping[Split, TokenArray]) -> dict[str, Any]:
    baseline = fit_baseline(arrays["train"])
    scores = {split: score_baseline(baseline, arrays[split]) for split in SPLITS}
    return {
        split: {
            "unigram": score.unigram_nats.tolist(),
            "bigram": score.bigram_nats.tolist(),
        }
        for split, score in scores.items()
    }


def _name_columns(header: StoreHeader) -> list[str]:
    return [
        str(Column(channel=channel, codebook=codebook))
        for channel, count in zip(header.channels, header.codebooks, strict=True)
        for codebook in range(count)
    ]


def _columns_read(header: StoreHeader) -> int:
    """Count the columns a model reads: of left, right, mid and side it reads one pair."""
    return sum(header.codebooks[:2])


def _describe(statistics: TokenStatistics) -> dict[str, Any]:
    return {
        "train_hours": round(statistics.duration_h, 4),
        "train_codes": statistics.num_codes,
        "usage": [round(book.usage, 4) for book in statistics.codebooks],
        "entropy_nats": [round(book.entropy_nats, 4) for book in statistics.codebooks],
        "dead_codes": [book.num_dead for book in statistics.codebooks],
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 5)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)
