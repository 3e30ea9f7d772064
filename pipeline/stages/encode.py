"""Normalised audio -> codes of the codec, in one sharded token store.

Tracks and shards of earlier runs are reused from a cache. The bytes of the store do not depend on
what was reused, on the order in which tracks finish, or on runs that were killed.
"""

import logging

from melodac.codec.dac import DacCodec
from melodac.codec.exact import PAYS_FROM_S, can_compile
from melodac.codec.load import WEIGHTS, load_codec
from melodac.token_files.store_writer import ShardCache, write_store
from pipeline import paths
from pipeline.cache.codes import TrackEncoder, build_header, choose_threads, hold_encode_scratch
from pipeline.logs import progress
from pipeline.params import Params
from pipeline.processes.devices import set_up_torch
from pipeline.records import Outcome, read_normalized
from pipeline.source.handover import HANDED_ON, take_over

log = logging.getLogger(__name__)


def run(params: Params) -> Outcome:
    """Encode every normalised track into the token store; imported codes are taken over."""
    if HANDED_ON.is_dir():
        return take_over(params.codec.weights, WEIGHTS)
    device = set_up_torch(params.runtime)
    codec = load_codec(params.codec.weights, device=str(device))
    rows = read_normalized(paths.NORMALIZED_TABLE)
    header = build_header(codec, params, rows)
    with hold_encode_scratch() as scratch:
        encoder = TrackEncoder(codec, scratch.codes, header.channels, device=device)
        missing = encoder.missing(rows)
        is_long = isinstance(codec, DacCodec) and encoder.duration_s(missing) > PAYS_FROM_S
        if is_long and device.type == "cpu" and can_compile():
            log.info("compiling the codec, as there is much to encode")
            encoder.use(load_codec(params.codec.weights, compiled=True))
        encoded = encoder.encode(missing, workers=choose_threads(params.runtime, device))
        for _ in progress(encoded, total=len(missing), unit="track", description="encode"):
            pass
        log.info(
            "%d of %d tracks encoded, %d from the cache",
            len(missing),
            len(rows),
            len(rows) - len(missing),
        )
        shards = ShardCache(scratch.shards)
        tracks = [encoder.source(row) for row in rows]
        report = write_store(
            paths.TOKENS,
            header,
            tracks,
            frames_per_shard=params.encode.frames_per_shard,
            vectors=codec.code_vectors().numpy(),
            cache=shards,
        )
        shards.drop_unused()
    log.info("%d shards, %d of them written anew", report.num_shards, report.num_written)
    num_frames = sum(track.num_frames for track in tracks)
    hours = num_frames * codec.hop / codec.sample_rate_hz / 3600
    return Outcome(
        counts={"tracks in": len(rows), "tracks out": len(rows), "frames": num_frames},
        metrics={
            "codec": codec.name,
            "tracks": len(rows),
            "frames": num_frames,
            "codes": num_frames * header.num_columns,
            "hours": round(hours, 4),
        },
    )
