"""Laws of the cache of codes: what it gives was written, byte by byte, or it gives nothing."""

import random
import threading

import numpy as np
import pytest

from melodac.errors import OutputError
from pipeline.cache.codes import CodeCache, hold_encode_scratch, make_key

CODES = np.random.default_rng(0).integers(0, 1024, (9, 40), dtype=np.uint16)
PARTS = {"audio": "a" * 64, "channel": "mono", "weights": "w" * 64, "hop": 512, "device": "cpu"}
KEY = make_key(**PARTS)


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "partial").mkdir()
    return CodeCache(tmp_path / "codes", tmp_path / "partial")


def entry_of(tmp_path):
    (entry,) = (tmp_path / "codes").rglob("*/*")
    return entry


def test_what_is_read_is_what_was_written(cache, tmp_path):
    cache.write(KEY, CODES)
    assert np.array_equal(cache.read(KEY), CODES)
    found = cache.find(KEY)
    assert (found.num_codebooks, found.num_frames) == CODES.shape
    assert list((tmp_path / "partial").iterdir()) == []


def test_an_unknown_key_gives_nothing(cache):
    assert cache.find(KEY) is None
    assert cache.read(KEY) is None


@pytest.mark.parametrize("part", PARTS)
def test_every_part_makes_another_key(part):
    value = PARTS[part]
    assert make_key(**{**PARTS, part: value + type(value)(1)}) != KEY


def test_an_entry_under_another_key_is_not_taken_for_it(cache, tmp_path):
    cache.write(KEY, CODES)
    other = make_key(**{**PARTS, "channel": "left"})
    target = tmp_path / "codes" / other[:2] / other
    target.parent.mkdir(exist_ok=True)
    entry_of(tmp_path).rename(target)
    assert cache.read(other) is None


def test_every_flipped_bit_is_found(cache, tmp_path, caplog):
    cache.write(KEY, CODES)
    whole = entry_of(tmp_path).read_bytes()
    chance = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path = tmp_path / "codes" / KEY[:2] / KEY
        path.write_bytes(content)
        assert cache.read(KEY) is None
        assert not path.exists()
        assert "is damaged: its track is encoded again" in caplog.messages[-1]


def test_a_cut_entry_is_found_before_its_codes_are_read(cache, tmp_path):
    cache.write(KEY, CODES)
    path = entry_of(tmp_path)
    whole = path.read_bytes()
    for length in [0, 1, 70, 200, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert cache.find(KEY) is None
    path.write_bytes(whole + b"more")
    assert cache.find(KEY) is None


def test_a_place_that_cannot_be_written_is_named(cache, tmp_path):
    (tmp_path / "codes").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match=r"codes/.*: cannot be written"):
        cache.write(KEY, CODES)


def test_what_a_killed_run_left_half_written_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / ".scratch/encode/partial/half"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with hold_encode_scratch() as scratch:
        scratch.codes.write(KEY, CODES)
        assert not left.exists()
    with hold_encode_scratch() as scratch:
        assert np.array_equal(scratch.codes.read(KEY), CODES)


def test_one_run_at_a_time_uses_the_folder_and_the_next_waits(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    entered = threading.Event()

    def enter():
        with hold_encode_scratch():
            entered.set()

    with hold_encode_scratch():
        other = threading.Thread(target=enter)
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    other.join()
    assert "is in use by process" in caplog.text
