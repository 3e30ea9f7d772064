"""One torch thread, as tests share the machine; hypothesis repeats itself exactly; real music."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("melodac", deadline=None, derandomize=True)
settings.load_profile("melodac")


@pytest.fixture(scope="session")
def real_music() -> Path:
    """Folder of real recordings."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "music"
    folder = Path(os.environ.get("MELODAC_TEST_MUSIC", beside))
    if not folder.is_dir():
        pytest.skip(f"no real music: {folder} is absent (set MELODAC_TEST_MUSIC)")
    return folder
