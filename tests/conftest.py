"""One torch thread, as tests share the machine; hypothesis repeats itself exactly; real music."""

import os
from pathlib import Path

from pipeline.processes.environment import set_up_environment

set_up_environment()

import pytest  # noqa: E402  after the environment is set
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

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
