"""Small stores for the tests of writing, reading and damage."""

import numpy as np

from melodac.token_files.store_writer import TrackSource
from melodac.tokens.store.header import StoreHeader, TrackCodes

NUM_CODEBOOKS = 3
CHANNELS = {1: ("mono",), 2: ("left", "right"), 4: ("left", "right", "mid", "side")}


def make_header(num_channels=1, target_lufs=-16.0):
    return StoreHeader(
        codec="tiny",
        weights_sha256="0" * 64,
        sample_rate_hz=44100,
        hop=512,
        codebook_size=1024,
        channels=CHANNELS[num_channels],
        codebooks=(NUM_CODEBOOKS,) * num_channels,
        target_lufs=target_lufs,
    )


def make_tracks(lengths, num_channels=1, seed=0):
    generator = np.random.default_rng(seed)
    num_columns = NUM_CODEBOOKS * num_channels
    return [
        TrackCodes(
            f"track{position}", generator.integers(0, 1024, (num_columns, length), dtype=np.uint16)
        )
        for position, length in enumerate(lengths)
    ]


def source_of(track):
    return TrackSource(track.id, track.codes.shape[-1], lambda: track.codes)


def make_sources(lengths, num_channels=1, seed=0):
    return [source_of(track) for track in make_tracks(lengths, num_channels, seed)]


def files_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
