"""Small stores for the tests of writing, reading and damage."""

import numpy as np

from melodac.tokens.store import StoreHeader, TrackCodes

NUM_CODEBOOKS = 3


def make_header(num_channels=1, target_lufs=-16.0):
    return StoreHeader(
        codec="tiny",
        weights_sha256="0" * 64,
        sample_rate_hz=44100,
        hop=512,
        num_codebooks=NUM_CODEBOOKS,
        codebook_size=1024,
        num_channels=num_channels,
        target_lufs=target_lufs,
    )


def make_tracks(lengths, num_channels=1, seed=0):
    generator = np.random.default_rng(seed)
    return [
        TrackCodes(
            f"track{position}",
            generator.integers(0, 1024, (num_channels, NUM_CODEBOOKS, length), dtype=np.uint16),
        )
        for position, length in enumerate(lengths)
    ]


def files_of(folder):
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
