"""A long stream takes no more memory than a short one."""

import subprocess
import sys

import pytest

ENCODE = """
import resource, sys
import numpy as np, torch
from melodac.codec.load import load_codec

torch.set_num_threads(1)
block = np.random.default_rng(0).normal(scale=0.1, size=(1, 44_100)).astype(np.float32)
for codes in load_codec("bundled").encode_blocks(block for _ in range(int(sys.argv[1]))):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kib(seconds: int) -> int:
    command = [sys.executable, "-c", ENCODE, str(seconds)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_recording():
    assert peak_kib(600) <= 1.1 * peak_kib(60)
