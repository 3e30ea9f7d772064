"""Shards that were written before are found again, and never change a byte of a store."""

import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import TokenError
from melodac.token_files.store_writer import ShardCache, write_store
from melodac.tokens.store.reader import open_store
from tests.tokens.store.stores import files_of, make_header, make_sources

SOURCES = [
    replace(source, codes_sha256=f"hash of {source.id}")
    for source in make_sources([7, 20, 1, 33, 90, 12, 5, 28, 16, 3, 9, 11])
]


def write(path, sources, cache=None):
    return write_store(path, make_header(), sources, frames_per_shard=32, cache=cache)


def unread(source):
    def read():
        raise AssertionError("read although its shard was there")

    return replace(source, read=read)


@settings(max_examples=5)
@given(st.lists(st.sets(st.sampled_from(range(len(SOURCES))), min_size=1), min_size=2, max_size=3))
def test_any_history_ends_with_the_bytes_of_a_fresh_store(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("stores")
    for chosen in history:
        cache = ShardCache(folder / "cache")
        write(folder / "store", [SOURCES[number] for number in chosen], cache)
        cache.drop_unused()
    write(folder / "fresh", [SOURCES[number] for number in history[-1]])
    assert files_of(folder / "store") == files_of(folder / "fresh")


def test_an_unchanged_store_is_written_without_reading_a_track(tmp_path):
    first = write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    again = write(tmp_path / "again", map(unread, SOURCES), ShardCache(tmp_path / "cache"))
    assert (first.num_written, again.num_written) == (first.num_shards, 0)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "store")


def shard_bytes(path):
    return {content for name, content in files_of(path).items() if name.startswith("codes/c/")}


@pytest.mark.parametrize("number", range(len(SOURCES)))
def test_a_removed_track_leaves_only_its_shard_rewritten(tmp_path, number):
    write(tmp_path / "all", SOURCES, ShardCache(tmp_path / "cache"))
    rest = SOURCES[:number] + SOURCES[number + 1 :]
    report = write(tmp_path / "rest", rest, ShardCache(tmp_path / "cache"))
    assert report.num_written <= 1
    assert len(shard_bytes(tmp_path / "rest") - shard_bytes(tmp_path / "all")) <= 1


@pytest.mark.parametrize("damage", [b"", b"other bytes"])
def test_a_damaged_shard_of_the_cache_is_not_used(tmp_path, damage):
    write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    for file in sorted((tmp_path / "cache").iterdir())[::2]:
        file.unlink()
        (tmp_path / "cache" / file.name).write_bytes(damage)
    num_damaged = len(list((tmp_path / "cache").iterdir())[::2])
    report = write(tmp_path / "again", SOURCES, ShardCache(tmp_path / "cache"))
    assert report.num_written == num_damaged
    assert files_of(tmp_path / "again") == files_of(tmp_path / "store")
    assert write(tmp_path / "third", SOURCES, ShardCache(tmp_path / "cache")).num_written == 0


def test_a_shard_damaged_in_place_is_not_used(tmp_path):
    write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    before = files_of(tmp_path / "store")
    for shard in (tmp_path / "store").rglob("c/*/0"):
        with shard.open("r+b") as file:  # the cache may share these bytes
            file.write(b"damage")
    report = write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    assert report.num_written == report.num_shards
    assert files_of(tmp_path / "store") == before
    open_store(tmp_path / "store")


def test_without_hard_links_shards_are_copied(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    report = write(tmp_path / "again", map(unread, SOURCES), ShardCache(tmp_path / "cache"))
    assert report.num_written == 0
    assert files_of(tmp_path / "again") == files_of(tmp_path / "store")
    assert not list(tmp_path.rglob(".*"))


def test_what_a_store_does_not_use_is_dropped(tmp_path):
    write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    cache = ShardCache(tmp_path / "cache")
    report = write(tmp_path / "store", SOURCES[:2], cache)
    cache.drop_unused()
    assert len(list((tmp_path / "cache").iterdir())) == report.num_shards


def test_tracks_without_a_hash_are_always_written(tmp_path):
    plain = [replace(source, codes_sha256="") for source in SOURCES]
    for _ in range(2):
        report = write(tmp_path / "store", plain, ShardCache(tmp_path / "cache"))
        assert report.num_written == report.num_shards
    assert list((tmp_path / "cache").iterdir()) == []


def test_shards_written_before_a_failure_are_found_again(tmp_path):
    def read():
        raise TokenError("gone")

    last = max(SOURCES, key=lambda source: source.num_frames)
    broken = [replace(s, read=read) if s is last else s for s in SOURCES]
    with pytest.raises(TokenError, match="gone"):
        write(tmp_path / "store", broken, ShardCache(tmp_path / "cache"))
    kept = len(list((tmp_path / "cache").iterdir()))
    report = write(tmp_path / "store", SOURCES, ShardCache(tmp_path / "cache"))
    assert 0 < kept == report.num_shards - report.num_written
