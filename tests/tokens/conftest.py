"""Token data small enough to look at."""

import numpy as np
import pytest

from melodac.tokens.array import array_of_tracks


@pytest.fixture(scope="session")
def make_array():
    """Random tracks of the given lengths, as the store would load them."""

    def make(lengths, num_codebooks=3, seed=0, num_codes=1024):
        generator = np.random.default_rng(seed)
        return array_of_tracks([
            (
                f"track{position}",
                generator.integers(0, num_codes, (length, num_codebooks), dtype=np.uint16),
            )
            for position, length in enumerate(lengths)
        ])

    return make
