"""params.yaml explains itself: every key has a comment beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_key_is_commented():
    lines = (ROOT / "params.yaml").read_text().splitlines()
    keys = [line for line in lines if line.startswith("  ") and ":" in line.split("#")[0]]
    assert keys
    assert [line for line in keys if "#" not in line] == []
