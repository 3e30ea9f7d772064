"""The threshold of near duplicates on whole pieces: copies are above it, other pieces below."""

import csv
from pathlib import Path

import pytest

from melodac.audio.files.read import read_audio
from melodac.audio.level.convert import resample
from melodac.audio.near_duplicates import find_near_duplicates
from tests.audio.test_fingerprint import CHANGES, SOURCE_HZ, fingerprint

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
THRESHOLD = 0.7
"""That of params.yaml."""


@pytest.fixture(scope="module")
def compositions():
    with (SAMPLE / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return [row["file_name"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_hardly_any_two_compositions_are_taken_for_copies(compositions):
    """One grammar drew them all: pieces of one style, key and tempo may come close."""
    words = {}
    for name in compositions:
        sound, rate_hz = read_audio(SAMPLE / name, 60.0)
        words[name] = fingerprint(sound, rate_hz)
    alike = find_near_duplicates(words, THRESHOLD)
    assert len(alike) < 1e-4 * len(words) * (len(words) - 1) / 2


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_every_copy_of_a_recording_is_found(compositions, change):
    missed = []
    for name in compositions[::10]:
        sound, rate_hz = read_audio(SAMPLE / name, 60.0)
        sound = resample(sound, rate_hz, SOURCE_HZ)
        copy = fingerprint(*CHANGES[change](sound))
        words = {"original": fingerprint(sound), "copy": copy}
        if not find_near_duplicates(words, THRESHOLD):
            missed.append(name)
    assert missed == []
