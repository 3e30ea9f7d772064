"""Normalised audio -> codes of the codec, in one sharded token store.

Each track is cut into exact overlapping chunks by the codec, so the store holds what encoding the
whole file at once would give, in the order of the table whatever finishes first.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from melodac.audio.read import read_audio
from melodac.codec.interface import Codec
from melodac.codec.load import load_codec
from melodac.tokens.header import StoreHeader
from melodac.tokens.store_writer import TrackSource, write_store
from pipeline import paths
from pipeline.devices import set_up_torch
from pipeline.logs import progress
from pipeline.params import Params, RuntimeParams
from pipeline.records import NormalizedRecord, Outcome, read_normalized


def run(params: Params) -> Outcome:
    """Encode every normalised track into the token store."""
    device = set_up_torch(params.runtime)
    codec = load_codec(params.codec.weights, device=str(device))
    rows = read_normalized(paths.NORMALIZED_TABLE)
    header = StoreHeader(
        codec=codec.name,
        weights_sha256=codec.weights_sha256,
        sample_rate_hz=codec.sample_rate_hz,
        hop=codec.hop,
        codebook_size=codec.codebook_size,
        channels=("mono",),
        codebooks=(codec.num_codebooks,),
        target_lufs=params.normalize.target_lufs,
    )
    with _open_pool(params.runtime, device) as pool:
        encoded = pool.map(lambda row: _encode(codec, row, device), rows)
        bar = progress(encoded, total=len(rows), unit="track", description="encode")
        codes = {row.id: track for row, track in zip(rows, bar, strict=True)}
    tracks = [
        TrackSource(name, track.shape[-1], lambda track=track: track)
        for name, track in codes.items()
    ]
    num_frames = sum(track.num_frames for track in tracks)
    write_store(paths.TOKENS, header, tracks, frames_per_shard=params.encode.frames_per_shard)
    hours = num_frames * codec.hop / codec.sample_rate_hz / 3600
    return Outcome(
        counts={"tracks in": len(rows), "tracks out": len(rows), "frames": num_frames},
        metrics={
            "codec": codec.name,
            "tracks": len(rows),
            "frames": num_frames,
            "codes": num_frames * codec.num_codebooks,
            "hours": round(hours, 4),
        },
    )


def _open_pool(runtime: RuntimeParams, device: torch.device) -> ThreadPoolExecutor:
    """Tracks side by side on a CPU, one torch thread each; one after another on a GPU.

    The operations of a small codec are too short to share between torch threads.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(1)
    torch.set_num_threads(1)
    return ThreadPoolExecutor(runtime.workers or os.cpu_count() or 1)


def _encode(codec: Codec, row: NormalizedRecord, device: torch.device) -> np.ndarray:
    seconds = row.num_samples / codec.sample_rate_hz
    audio, _ = read_audio(paths.NORMALIZED_AUDIO / f"{row.id}.flac", max_duration_s=seconds + 1)
    codes = codec.encode(torch.from_numpy(audio).to(device))
    return codes.cpu().numpy().astype(np.uint16)[0]
