"""Token store + catalogue -> windows of each split, token statistics, n-gram baselines.

The only place where cropping is decided: which tracks give windows, and how long a window is. The
delay pattern is not known here; a window reads the frames beyond its end that a pattern needs.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from melodac.errors import EmptySplitError
from melodac.tokens.array import TokenArray
from melodac.tokens.ngrams import fit_baseline, score_baseline
from melodac.tokens.statistics import measure_statistics
from melodac.tokens.store import TokenStore, open_store
from melodac.tokens.windows import coverage, evaluation_windows, training_windows
from pipeline import paths
from pipeline.datasets import IndexRecord
from pipeline.params import IndexParams, Params
from pipeline.records import Outcome, Split, TrackRecord, read_catalogue, write_json

log = logging.getLogger(__name__)
SPLITS: tuple[Split, ...] = get_args(Split)
SHORT = "shorter than index.min_track_frames"


def run(params: Params) -> Outcome:
    """Decide the windows and measure the codes they come from.

    Raises:
        EmptySplitError: If a split has no track that is long enough.
    """
    store = open_store(paths.TOKENS)
    codes = store.load()
    tracks = read_catalogue(paths.CATALOGUE)
    splits, num_short = _choose_tracks(tracks, store, params.index)
    for split, ids in splits.items():
        if not ids:
            raise EmptySplitError(
                f"the {split} split has no track of {params.index.min_track_frames} frames: "
                f"lower index.min_track_frames, raise ingest.{split}_frac or add music"
            )
    arrays: dict[Split, TokenArray] = {s: codes.select(ids) for s, ids in splits.items()}
    index = IndexRecord(
        window_frames=params.index.window_frames,
        store_fingerprint=store.fingerprint,
        splits=splits,
        coverage={split: _cover(split, arrays[split], params.index) for split in SPLITS},
        fingerprint=_fingerprint(store, splits, params.index),
    )
    write_json(paths.INDEX, index.model_dump(mode="json"))
    statistics = measure_statistics(
        arrays["train"], frame_rate_hz=store.header.sample_rate_hz / store.header.hop
    )
    baselines = _score_baselines(arrays)
    write_json(
        paths.BASELINES,
        {**baselines, "train_statistics": statistics.model_dump(mode="json")},
    )
    seen = index.coverage["train"]
    log.info(
        "train windows cover %d of %d frames an epoch, %d distinct starts are possible",
        seen["num_frames_seen"],
        seen["num_frames"],
        seen["num_possible"],
    )
    return Outcome(
        counts={f"{split} tracks": len(ids) for split, ids in splits.items()},
        skipped={SHORT: num_short} if num_short else {},
        metrics={
            "train_hours": round(statistics.duration_h, 4),
            "train_codes": statistics.num_codes,
            "usage": [round(book.usage, 4) for book in statistics.codebooks],
            "entropy_nats": [round(book.entropy_nats, 4) for book in statistics.codebooks],
            "validation_unigram_nats": _mean(baselines["validation"]["unigram"]),
            "validation_bigram_nats": _mean(baselines["validation"]["bigram"]),
        },
    )


def _choose_tracks(
    tracks: Sequence[TrackRecord], store: TokenStore, index: IndexParams
) -> tuple[dict[Split, tuple[str, ...]], int]:
    long_enough = [
        track for track in tracks if store.num_frames(track.id) >= index.min_track_frames
    ]
    splits: dict[Split, tuple[str, ...]] = {
        split: tuple(sorted(track.id for track in long_enough if track.split == split))
        for split in SPLITS
    }
    return splits, len(tracks) - len(long_enough)


def _cover(split: Split, array: TokenArray, index: IndexParams) -> dict[str, int]:
    lengths = [int(length) for length in array.lengths]
    if split == "train":
        table = training_windows(lengths, index.window_frames, seed=0, epoch=0)
    else:
        table = evaluation_windows(lengths, index.window_frames)
    return {"windows": len(table), **coverage([table], lengths, index.window_frames)._asdict()}


def _fingerprint(
    store: TokenStore, splits: Mapping[Split, tuple[str, ...]], index: IndexParams
) -> str:
    parts = [store.fingerprint, dict(splits), index.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)
