"""Real recordings, for tests of what measures and changes sound."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_music() -> Path:
    """Folder of real recordings."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "music"
    folder = Path(os.environ.get("MELODAC_TEST_MUSIC", beside))
    if not folder.is_dir():
        pytest.skip(f"no real music: {folder} is absent (set MELODAC_TEST_MUSIC)")
    return folder
