"""A folder as the encode stage leaves it, of random codes; for tests of the stages after it."""

import numpy as np

from melodac.token_files.store_writer import write_store
from melodac.tokens.store.header import StoreHeader, TrackCodes
from pipeline import paths
from pipeline.records import NormalizedRecord, TrackRecord, write_catalogue, write_normalized
from tests.tokens.store.stores import source_of

SPLITS = ("train", "train", "train", "validation", "test")


def make_header(channels=("mono",), codebooks=None, **changes):
    fields = {
        "codec": "bundled",
        "weights_sha256": "0" * 64,
        "sample_rate_hz": 44100,
        "hop": 512,
        "codebook_size": 1024,
        "channels": channels,
        "codebooks": codebooks or (2,) * len(channels),
        "target_lufs": -16.0,
    }
    return StoreHeader(**(fields | changes))


def make_record(position, split="train", num_frames=100, **tags):
    return TrackRecord(
        id=f"{position:016x}",
        path=f"{position}.flac",
        group=str(position),
        split=split,
        duration_s=num_frames * 512 / 44100,
        sample_rate_hz=44100,
        num_channels=1,
        decoder="libsndfile",
        audio_sha256=f"{position:064x}",
        loudness_lufs=-20.0,
        peak_dbfs=-3.0,
        tags=tags,
        tag_sources=dict.fromkeys(tags, "metadata.csv"),
        licence="CC0-1.0",
    )


def make_row(record, num_frames, start_sample=0):
    return NormalizedRecord(
        id=record.id,
        sha256="0" * 64,
        num_samples=num_frames * 512,
        num_channels=1,
        start_sample=start_sample,
        gain_db=0.0,
        loudness_before_lufs=-16.0,
        loudness_after_lufs=-16.0,
        peak_dbtp=-3.0,
        is_gain_capped=False,
    )


def lay_out(
    header,
    lengths=(100, 80, 120, 90, 90),
    *,
    tags=(),
    starts=(),
    num_codes=1024,
    seed=0,
    vectors=None,
):
    """Write catalogue, table and store below the current folder; returns the records."""
    generator = np.random.default_rng(seed)
    records, rows, tracks = [], [], []
    for position, (length, split) in enumerate(zip(lengths, SPLITS, strict=True)):
        more = tags[position] if tags else {}
        record = make_record(position, split, length, **more)
        records.append(record)
        rows.append(make_row(record, length, starts[position] if starts else 0))
        codes = generator.integers(0, num_codes, (header.num_columns, length), dtype=np.uint16)
        tracks.append(source_of(TrackCodes(record.id, codes)))
    write_catalogue(paths.CATALOGUE, records)
    write_normalized(paths.NORMALIZED_TABLE, rows)
    paths.TOKENS.parent.mkdir(parents=True, exist_ok=True)
    write_store(paths.TOKENS, header, tracks, frames_per_shard=4096, vectors=vectors)
    return records
