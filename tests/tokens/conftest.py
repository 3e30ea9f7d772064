"""Token data small enough to look at."""

import numpy as np
import pytest
import torch
from hypothesis import settings

from melodac.tokens.array import array_of_tracks

# no deadline: the machine may be shared; the same examples in every run
settings.register_profile("tokens", deadline=None, derandomize=True)
settings.load_profile("tokens")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
