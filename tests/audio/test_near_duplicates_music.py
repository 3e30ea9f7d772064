"""The threshold of near-duplicates on real music: copies are above it, other pieces far below."""

import csv
from pathlib import Path

import pytest

from melodac.audio.files.read import read_audio
from melodac.audio.near_duplicates import find_near_duplicates
from tests.audio.test_fingerprint import CHANGES, SOURCE_HZ, fingerprint

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
THRESHOLD = 0.7
UNRELATED = 0.55


@pytest.fixture(scope="module")
def compositions():
    with (SAMPLE / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return {row["file_name"]: row["group"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_different_compositions_are_far_apart(compositions):
    words = {}
    for name in compositions:
        sound, rate_hz = read_audio(SAMPLE / name, 60.0)
        words[name] = fingerprint(sound, rate_hz)
    alike = find_near_duplicates(words, UNRELATED)
    assert alike, "variants of one composition share recordings"
    strangers = [pair for pair in alike if compositions[pair.first] != compositions[pair.second]]
    assert strangers == []


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_every_copy_of_a_loop_is_found(compositions, change):
    missed = []
    for name in list(compositions)[::10]:
        sound, rate_hz = read_audio(SAMPLE / name, 60.0)
        assert rate_hz == SOURCE_HZ
        copy = fingerprint(*CHANGES[change](sound))
        words = {"original": fingerprint(sound, rate_hz), "copy": copy}
        if not find_near_duplicates(words, THRESHOLD):
            missed.append(name)
    assert missed == []
