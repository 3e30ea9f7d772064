"""A damaged store is refused, by the name of the file and of the tracks in it."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest

from melodac.errors import StoreCorruptError, StoreVersionError
from melodac.token_files.store_writer import write_store
from melodac.tokens.store.header import FORMAT_VERSION
from melodac.tokens.store.manifest import find_damage, read_manifest
from melodac.tokens.store.reader import open_store
from tests.tokens.store.stores import files_of, make_header, make_tracks, source_of

TRACKS = make_tracks([40, 130, 20, 20, 15, 60])
HELD = ["3 4", "1", "1", "1", "0 2", "5"]
"""Tracks in each shard of 64 frames."""


@pytest.fixture
def store_path(tmp_path):
    write_store(tmp_path / "store", make_header(), map(source_of, TRACKS), frames_per_shard=64)
    return tmp_path / "store"


def rewrite_manifest(path):
    """Give damaged content a manifest that agrees with it, as a foreign store would have."""
    files = files_of(path)
    del files["manifest.json"]
    entries = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    (path / "manifest.json").write_text(json.dumps({"format_version": 2, "files": entries}))


@pytest.mark.parametrize(("shard", "held"), list(enumerate(HELD)))
def test_the_message_names_the_tracks_of_the_shard(store_path, shard, held):
    ids = [f"track{number}" for number in held.split()]
    (store_path / f"codes/c/{shard}/0").unlink()
    message = (
        rf"1 files .*codes/c/{shard}/0 is missing \(holds {len(ids)} tracks: {', '.join(ids)}\)"
    )
    with pytest.raises(StoreCorruptError, match=message):
        open_store(store_path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["codes/c/1/0", "codes/zarr.json", "tracks.json"])
def test_a_truncated_file_is_found(store_path, name, kept):
    file = store_path / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreCorruptError, match=f"{name} has .* bytes instead of {len(content)}"):
        open_store(store_path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_manifest_is_found(store_path, kept):
    content = (store_path / "manifest.json").read_bytes()
    (store_path / "manifest.json").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreCorruptError, match=r"manifest.json is not JSON"):
        open_store(store_path)


def test_every_flipped_bit_is_found(store_path):
    chance = random.Random(0)
    files = files_of(store_path)
    for _ in range(200):
        name = chance.choice(sorted(files))
        content = bytearray(files[name])
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (store_path / name).write_bytes(content)
        with pytest.raises((StoreCorruptError, StoreVersionError)):
            open_store(store_path)
        (store_path / name).write_bytes(files[name])
    open_store(store_path)


def test_swapped_shards_are_both_named(store_path):
    first, second = store_path / "codes/c/0/0", store_path / "codes/c/1/0"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(
        StoreCorruptError, match=r"2 files .*c/0/0 has .*track3.*c/1/0 has .*track1"
    ):
        open_store(store_path)


def test_an_additional_file_is_found(store_path):
    (store_path / "codes/c/9").mkdir()
    shutil.copy(store_path / "codes/c/0/0", store_path / "codes/c/9/0")
    with pytest.raises(StoreCorruptError, match="codes/c/9/0 is not in the manifest"):
        open_store(store_path)


def test_a_linked_shard_is_refused_even_if_its_bytes_are_right(store_path, tmp_path):
    shard = store_path / "codes/c/1/0"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match=r"c/1/0 is a link.*cache.type.*: track1"):
        open_store(store_path)


def test_a_linked_folder_is_refused(store_path, tmp_path):
    (store_path / "codes/c").rename(tmp_path / "elsewhere")
    (store_path / "codes/c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match=r"codes/c is not in the manifest; .*is missing"):
        open_store(store_path)


def test_no_store_is_named_as_such(tmp_path):
    with pytest.raises(StoreCorruptError, match=r"no complete store at .*manifest.json is missing"):
        open_store(tmp_path / "nowhere")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_version_is_refused(store_path, version):
    manifest = json.loads((store_path / "manifest.json").read_text())
    manifest["format_version"] = version
    (store_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        StoreVersionError, match=rf"format version {version!r}, this code reads 2: run the en"
    ):
        open_store(store_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fill_value", 0),
        ("data_type", "int32"),
        ("shape", [10**12, 3]),
        ("shape", [384, 4]),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "little"}}]),
        ("zarr_format", 2),
        ("storage_transformers", [{"name": "unknown"}]),
    ],
)
def test_a_foreign_layout_is_refused_before_it_is_read(store_path, key, value):
    metadata = json.loads((store_path / "codes/zarr.json").read_text())
    metadata[key] = value
    (store_path / "codes/zarr.json").write_text(json.dumps(metadata))
    rewrite_manifest(store_path)
    with pytest.raises(StoreCorruptError, match=f"{key} is .*, expected"):
        open_store(store_path)


def test_a_foreign_header_is_refused(store_path):
    metadata = json.loads((store_path / "codes/zarr.json").read_text())
    metadata["attributes"]["codebook_size"] = 2048
    (store_path / "codes/zarr.json").write_text(json.dumps(metadata))
    rewrite_manifest(store_path)
    with pytest.raises(
        StoreCorruptError, match=r"no token store of this format(.|\n)*codebook_size"
    ):
        open_store(store_path)


def table_of(ids, first_rows, num_frames, frames_per_shard=64):
    return {
        "ids": ids,
        "first_rows": first_rows,
        "num_frames": num_frames,
        "frames_per_shard": frames_per_shard,
    }


@pytest.mark.parametrize(
    "table",
    [
        table_of(["a", "a"], [0, 100], [100, 95]),
        table_of(["b", "a"], [0, 100], [100, 95]),
        table_of(["a"], [0, 100], [100, 95]),
        table_of([], [], []),
        table_of(["a", "b"], [0, 195], [195, 0]),
        table_of(["a", "b"], [0, 99], [100, 95]),
        table_of(["a", "b"], [90, 0], [100, 91]),
        table_of(["a"], [-1], [100]),
        table_of(["a"], [0], [10**30]),
        table_of(["a"], [0], [195], 10**12),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(store_path, table):
    (store_path / "tracks.json").write_text(json.dumps(table))
    rewrite_manifest(store_path)
    with pytest.raises(StoreCorruptError, match="no token store of this format"):
        open_store(store_path)


@pytest.mark.parametrize("num_shards", [6, 10**9])
def test_a_table_that_needs_more_shards_names_the_missing(store_path, num_shards):
    table = table_of(["a"], [64], [64 * num_shards])
    (store_path / "tracks.json").write_text(json.dumps(table))
    rewrite_manifest(store_path)
    with pytest.raises(StoreCorruptError, match=r"codes/c/6/0 is not in the manifest \(holds 1"):
        open_store(store_path)


def test_a_shard_lost_after_opening_is_never_read_as_codes(store_path):
    store = open_store(store_path)
    (store_path / "codes/c/1/0").unlink()
    with pytest.raises(StoreCorruptError, match=r"hold 65535, codes are below 1024.*c/1/0"):
        store.load()
    with pytest.raises(StoreCorruptError, match="hold 65535"):
        store.codes("track1")
    assert np.array_equal(store.codes("track3"), TRACKS[3].codes)


def test_a_bit_flipped_after_opening_is_found_by_the_chunk_checksum(store_path):
    store = open_store(store_path)
    shard = store_path / "codes/c/1/0"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match=r"cannot be read, from shard c/1/0"):
        store.load()


def test_an_intact_store_has_no_damage(store_path):
    manifest, _ = read_manifest(store_path, FORMAT_VERSION)
    assert find_damage(store_path, manifest) == {}
    assert set(manifest.files) == set(files_of(store_path)) - {"manifest.json"}
