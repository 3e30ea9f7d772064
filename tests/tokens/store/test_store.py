"""Laws of the token store: what is read is what was written, and the bytes depend on nothing else."""

import random
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import OutputError, StoreVersionError, TokenError
from melodac.token_files.store_writer import TrackSource, write_store
from melodac.tokens.store.header import StoreHeader, TrackCodes
from melodac.tokens.store.reader import open_store
from tests.tokens.store.stores import files_of, make_header, make_sources, make_tracks, source_of


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    num_channels=st.sampled_from([1, 2, 4]),
    frames_per_shard=st.integers(1, 50),
)
def test_read_is_what_was_written(tmp_path_factory, lengths, num_channels, frames_per_shard):
    path = tmp_path_factory.mktemp("stores") / "store"
    header, tracks = make_header(num_channels), make_tracks(lengths, num_channels)
    write_store(path, header, map(source_of, tracks), frames_per_shard=frames_per_shard)
    store = open_store(path)
    loaded = store.load()
    assert store.header == header
    assert store.track_ids == loaded.track_ids == tuple(track.id for track in tracks)
    assert loaded.values.shape == (sum(lengths), header.num_columns)
    in_row_order = {track.id: track.codes for track in store.tracks()}
    for position, track in enumerate(tracks):
        assert store.num_frames(track.id) == track.codes.shape[-1]
        assert np.array_equal(store.codes(track.id), track.codes)
        assert np.array_equal(loaded.codes(position).T, track.codes)
        assert np.array_equal(in_row_order.pop(track.id), track.codes)
    assert not in_row_order


def test_chunks_of_the_real_size_are_read_back(tmp_path):
    tracks = make_tracks([9000, 1, 4096, 700, 20_000])
    write_store(tmp_path / "store", make_header(), map(source_of, tracks), frames_per_shard=8192)
    store = open_store(tmp_path / "store")
    loaded = store.load()
    for position, track in enumerate(tracks):
        assert np.array_equal(store.codes(track.id), track.codes)
        assert np.array_equal(loaded.codes(position).T, track.codes)


def test_rows_that_no_track_has_take_no_space(tmp_path):
    for name, frames_per_shard in (("tight", 4096), ("wide", 2**20)):
        sources = make_sources([4096])
        write_store(tmp_path / name, make_header(), sources, frames_per_shard=frames_per_shard)
    tight, wide = ((tmp_path / n / "codes/c/0/0").stat().st_size for n in ("tight", "wide"))
    assert wide < tight + 16 * 256 + 100  # 16 bytes of index for each of 256 chunks


def test_equal_input_gives_equal_bytes_in_any_order(tmp_path):
    sources = make_sources([30, 50, 7, 12, 90])
    for seed, name in enumerate(("one", "two")):
        shuffled = random.Random(seed).sample(sources, len(sources))
        write_store(tmp_path / name, make_header(), shuffled, frames_per_shard=32)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert open_store(tmp_path / "one").fingerprint == open_store(tmp_path / "two").fingerprint


def test_any_difference_changes_the_fingerprint(tmp_path):
    tracks = make_tracks([30, 5])
    changed = tracks[1].codes.copy()
    changed[0, 4] ^= 1
    variants = {
        "same": (make_header(), tracks),
        "code": (make_header(), [tracks[0], TrackCodes(tracks[1].id, changed)]),
        "fewer": (make_header(), tracks[:1]),
        "id": (make_header(), [tracks[0], TrackCodes("other", tracks[1].codes)]),
        "header": (make_header(target_lufs=-23.0), tracks),
    }
    for name, (header, stored) in variants.items():
        write_store(tmp_path / name, header, map(source_of, stored), frames_per_shard=32)
    assert len({open_store(tmp_path / name).fingerprint for name in variants}) == len(variants)


def test_a_track_is_read_when_its_shard_is_written(tmp_path):
    seen = []

    def recorded(source):
        def read():
            seen.append(len(list((tmp_path / ".store.partial").rglob("c/*/0"))))
            return source.read()

        return TrackSource(source.id, source.num_frames, read)

    sources = [recorded(source) for source in make_sources([60] * 5)]
    write_store(tmp_path / "store", make_header(), sources, frames_per_shard=100)
    assert seen == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "store").rglob("c/*/0"))) == 5


def test_any_zarr_reader_opens_the_array(tmp_path):
    tracks = make_tracks([30])
    write_store(tmp_path / "store", make_header(), map(source_of, tracks), frames_per_shard=16)
    array = zarr.open_array(tmp_path / "store" / "codes", mode="r", zarr_format=3)
    assert array.dtype == np.uint16
    assert array.shape == (32, 3)
    assert array.fill_value == 65535
    assert array.attrs["codec"] == "tiny"
    assert np.array_equal(array[:30].T, tracks[0].codes)
    assert (array[30:] == 65535).all()


def broken_source():
    def read():
        raise OSError("the audio is gone")

    return TrackSource("broken", 40, read)


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="the audio is gone"):
        write_store(
            tmp_path / "store",
            make_header(),
            [*make_sources([40]), broken_source()],
            frames_per_shard=16,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sources", [[], [broken_source()]])
def test_a_failure_leaves_the_older_store_as_it_was(tmp_path, sources):
    write_store(tmp_path / "store", make_header(), make_sources([40]), frames_per_shard=16)
    before = files_of(tmp_path / "store")
    with pytest.raises((TokenError, OSError), match=r"no track to write|the audio is gone"):
        write_store(tmp_path / "store", make_header(), sources, frames_per_shard=16)
    assert files_of(tmp_path / "store") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_a_store_is_replaced_by_a_new_one(tmp_path):
    write_store(tmp_path / "store", make_header(), make_sources([40]), frames_per_shard=16)
    write_store(tmp_path / "store", make_header(), make_sources([5, 6]), frames_per_shard=16)
    assert open_store(tmp_path / "store").track_ids == ("track0", "track1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_a_store_that_a_killed_writer_moved_aside_gets_its_name_back(tmp_path):
    path = tmp_path / "store"
    write_store(path, make_header(), make_sources([40]), frames_per_shard=16)
    before = files_of(path)
    path.rename(tmp_path / ".store.replaced")  # killed between the two renames
    with pytest.raises(OSError, match="the audio is gone"):
        write_store(path, make_header(), [broken_source()], frames_per_shard=16)
    assert files_of(path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"not a folder written by melodac.*remove it"):
        write_store(tmp_path / "store", make_header(), make_sources([5]))
    assert (tmp_path / "store" / "diary.txt").read_text() == "mine"


KILLED_WRITER = """
import os, sys
from pathlib import Path
from stores import make_header, make_sources
from melodac.token_files.store_writer import TrackSource, write_store
killed = TrackSource("z", 40, lambda: os._exit(137))
sources = [*make_sources([40, 40]), killed]
write_store(Path(sys.argv[1]), make_header(), sources, frames_per_shard=16)
"""


def test_a_killed_writer_leaves_no_store_and_does_not_stop_the_next(tmp_path, request):
    path = tmp_path / "store"
    root = request.config.rootpath
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(path)],
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root / 'tests/tokens/store'}:{root}", "PATH": ""},
    )
    assert done.returncode == 137
    assert [entry.name for entry in tmp_path.iterdir()] == [".store.partial"]
    write_store(path, make_header(), make_sources([40, 40]), frames_per_shard=16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]
    assert open_store(path).track_ids == ("track0", "track1")


CODES = make_tracks([4])[0].codes


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (TrackCodes("", CODES), "track '' cannot be stored: its id must be printable"),
        (TrackCodes("a\nb", CODES), "its id must be printable"),
        (TrackCodes("track0", CODES), "'track0' cannot be stored: its id must be .* its own"),
        (TrackCodes("x", CODES[:2]), r"codes are uint16 \(2, 4\), expected uint16 \(3, 4\)"),
        (TrackCodes("x", CODES[..., :0]), "'x' cannot be stored: it has no frame"),
        (TrackCodes("x", CODES | np.uint16(1024)), "codes are below 1024"),
    ],
)
def test_a_track_that_does_not_fit_is_refused(tmp_path, track, message):
    with pytest.raises(TokenError, match=message):
        write_store(tmp_path / "store", make_header(), [*make_sources([9]), source_of(track)])


@pytest.mark.parametrize("frames_per_shard", [0, -4096, 5000, 2**27])
def test_a_shard_of_no_whole_chunks_is_refused(tmp_path, frames_per_shard):
    with pytest.raises(TokenError, match=f"frames_per_shard is {frames_per_shard}: allowed are"):
        write_store(
            tmp_path / "store",
            make_header(),
            make_sources([9]),
            frames_per_shard=frames_per_shard,
        )


def test_a_header_of_another_version_is_refused(tmp_path):
    header = StoreHeader(**{**make_header().model_dump(), "format_version": 1})
    with pytest.raises(StoreVersionError, match="version 1, this code writes 2"):
        write_store(tmp_path / "store", header, make_sources([9]))


@pytest.mark.parametrize(
    ("channels", "codebooks"),
    [(("left",), (9,)), (("mono", "left"), (9, 9)), (("right", "left"), (9, 9)), ((), ())],
)
def test_channels_that_no_layout_knows_are_refused(channels, codebooks):
    values = {**make_header().model_dump(), "channels": channels, "codebooks": codebooks}
    with pytest.raises(ValueError, match="allowed are mono; left, right; mid, side; left"):
        StoreHeader(**values)


def test_a_channel_knows_its_columns():
    header = StoreHeader(**{
        **make_header(2).model_dump(),
        "channels": ("mid", "side"),
        "codebooks": (9, 4),
    })
    assert (header.num_channels, header.num_columns) == (2, 13)
    assert (header.columns("mid"), header.columns("side")) == (slice(0, 9), slice(9, 13))
    with pytest.raises(ValueError, match="codebooks of 2 channels for 1 channels"):
        StoreHeader(**{**header.model_dump(), "channels": ("mono",)})


def test_an_unknown_track_is_refused(tmp_path):
    write_store(tmp_path / "store", make_header(), make_sources([9]), frames_per_shard=16)
    store = open_store(tmp_path / "store")
    with pytest.raises(TokenError, match="no track 'nobody' in the store of 1 tracks"):
        store.codes("nobody")
