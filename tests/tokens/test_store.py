"""Laws of the token store: what is read is what was written, and the bytes depend on nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import OutputError, StoreVersionError, TokenError
from melodac.tokens.store import StoreHeader, TrackCodes, open_store, write_store
from tests.tokens.stores import files_of, make_header, make_tracks


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    num_channels=st.integers(1, 2),
    frames_per_shard=st.integers(1, 50),
)
def test_read_is_what_was_written(tmp_path_factory, lengths, num_channels, frames_per_shard):
    path = tmp_path_factory.mktemp("stores") / "store"
    header, tracks = make_header(num_channels), make_tracks(lengths, num_channels)
    write_store(path, header, tracks, frames_per_shard=frames_per_shard)
    store = open_store(path)
    loaded = store.load()
    assert store.header == header
    assert store.track_ids == loaded.track_ids == tuple(track.id for track in tracks)
    for position, track in enumerate(tracks):
        assert store.num_frames(track.id) == track.codes.shape[-1]
        assert np.array_equal(store.codes(track.id), track.codes)
        columns = track.codes.reshape(-1, track.codes.shape[-1])
        assert np.array_equal(loaded.codes(position).T, columns)


def test_chunks_of_the_real_size_are_read_back(tmp_path):
    tracks = make_tracks([9000, 1, 4096, 700])
    write_store(tmp_path / "store", make_header(), tracks, frames_per_shard=8192)
    store = open_store(tmp_path / "store")
    for track in tracks:
        assert np.array_equal(store.codes(track.id), track.codes)
    assert np.array_equal(store.load().codes(0).T, tracks[0].codes[0])


def test_equal_input_gives_equal_bytes(tmp_path):
    tracks = make_tracks([30, 50, 7])
    for name in ("one", "two"):
        write_store(tmp_path / name, make_header(), iter(tracks), frames_per_shard=32)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert open_store(tmp_path / "one").fingerprint == open_store(tmp_path / "two").fingerprint


def test_any_difference_changes_the_fingerprint(tmp_path):
    tracks = make_tracks([30, 5])
    changed = tracks[1].codes.copy()
    changed[0, 0, 4] ^= 1
    variants = {
        "same": (make_header(), tracks),
        "code": (make_header(), [tracks[0], TrackCodes(tracks[1].id, changed)]),
        "order": (make_header(), tracks[::-1]),
        "id": (make_header(), [tracks[0], TrackCodes("other", tracks[1].codes)]),
        "header": (make_header(target_lufs=-23.0), tracks),
    }
    for name, (header, stored) in variants.items():
        write_store(tmp_path / name, header, stored, frames_per_shard=32)
    assert len({open_store(tmp_path / name).fingerprint for name in variants}) == len(variants)


def test_shards_are_few_and_written_while_tracks_arrive(tmp_path):
    seen = []

    def tracks():
        for track in make_tracks([40] * 10):
            seen.append(len(list((tmp_path / ".store.partial").rglob("c/*/0"))))
            yield track

    write_store(tmp_path / "store", make_header(), tracks(), frames_per_shard=100)
    assert seen == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert len(list((tmp_path / "store").rglob("c/*/0"))) == 4


def test_any_zarr_reader_opens_the_array(tmp_path):
    tracks = make_tracks([30])
    write_store(tmp_path / "store", make_header(), tracks, frames_per_shard=16)
    array = zarr.open_array(tmp_path / "store" / "codes", mode="r", zarr_format=3)
    assert array.dtype == np.uint16
    assert array.shape == (30, 3)
    assert array.fill_value == 65535
    assert array.attrs["codec"] == "tiny"
    assert np.array_equal(array[:].T, tracks[0].codes[0])


def test_a_failure_leaves_nothing_behind(tmp_path):
    def tracks():
        yield from make_tracks([40])
        raise OSError("the audio is gone")

    with pytest.raises(OSError, match="the audio is gone"):
        write_store(tmp_path / "store", make_header(), tracks(), frames_per_shard=16)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_store_as_it_was(tmp_path):
    write_store(tmp_path / "store", make_header(), make_tracks([40]), frames_per_shard=16)
    before = files_of(tmp_path / "store")
    with pytest.raises(TokenError, match="no track to write"):
        write_store(tmp_path / "store", make_header(), [], frames_per_shard=16)
    assert files_of(tmp_path / "store") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_a_store_is_replaced_by_a_new_one(tmp_path):
    write_store(tmp_path / "store", make_header(), make_tracks([40]), frames_per_shard=16)
    write_store(tmp_path / "store", make_header(), make_tracks([5, 6]), frames_per_shard=16)
    assert open_store(tmp_path / "store").track_ids == ("track0", "track1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not a folder written by melodac.*remove it"):
        write_store(tmp_path / "store", make_header(), make_tracks([5]))
    assert (tmp_path / "store" / "diary.txt").read_text() == "mine"


KILLED_WRITER = """
import os, sys
from pathlib import Path
from stores import make_header, make_tracks
from melodac.tokens.store import write_store
def tracks():
    yield from make_tracks([40, 40])
    os._exit(137)
write_store(Path(sys.argv[1]), make_header(), tracks(), frames_per_shard=16)
"""


def test_a_killed_writer_leaves_no_store_and_does_not_stop_the_next(tmp_path, request):
    path = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(path)],
        cwd=request.config.rootpath,
        env=env_of(request),
    )
    assert done.returncode == 137
    assert [entry.name for entry in tmp_path.iterdir()] == [".store.partial"]
    write_store(path, make_header(), make_tracks([40, 40]), frames_per_shard=16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert open_store(path).track_ids == ("track0", "track1")


def env_of(request):
    root = request.config.rootpath
    return {"PYTHONPATH": f"{root / 'src'}:{root / 'tests/tokens'}", "PATH": ""}


CODES = make_tracks([4])[0].codes


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (TrackCodes("", CODES), "track '' cannot be stored: its id must be printable"),
        (TrackCodes("a\nb", CODES), "its id must be printable"),
        (TrackCodes("track0", CODES), "'track0' cannot be stored: its id must be .* its own"),
        (TrackCodes("x", CODES[:, :2]), r"codes are uint16 \(1, 2, 4\), expected uint16 \(1, 3\)"),
        (TrackCodes("x", CODES[..., :0]), "'x' cannot be stored: it has no frame"),
        (TrackCodes("x", CODES | np.uint16(1024)), "codes are below 1024"),
    ],
)
def test_a_track_that_does_not_fit_is_refused(tmp_path, track, message):
    with pytest.raises(TokenError, match=message):
        write_store(tmp_path / "store", make_header(), [*make_tracks([9]), track])


@pytest.mark.parametrize("frames_per_shard", [0, -4096, 5000, 2**27])
def test_a_shard_of_no_whole_chunks_is_refused(tmp_path, frames_per_shard):
    with pytest.raises(TokenError, match=f"frames_per_shard is {frames_per_shard}: allowed are"):
        write_store(tmp_path / "store", make_header(), make_tracks([9]), frames_per_shard)


def test_a_header_of_another_version_is_refused(tmp_path):
    header = StoreHeader(**{**make_header().model_dump(), "format_version": 2})
    with pytest.raises(StoreVersionError, match="version 2, this code writes 1"):
        write_store(tmp_path / "store", header, make_tracks([9]))


def test_an_unknown_track_is_refused(tmp_path):
    write_store(tmp_path / "store", make_header(), make_tracks([9]), frames_per_shard=16)
    store = open_store(tmp_path / "store")
    with pytest.raises(TokenError, match="no track 'nobody' in the store of 1 tracks"):
        store.codes("nobody")
