"""Laws of writing in blocks: the same file as at once, whole or not at all, also on a full disk."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.audio.files.write import open_flac, write_flac
from melodac.errors import AudioError, OutputError
from tests.audio.sounds import RATE_HZ, cut, music


@given(
    lengths=st.lists(st.integers(1000, 40_000), min_size=1, max_size=4), channels=st.integers(1, 2)
)
@settings(max_examples=20, deadline=None)
def test_blocks_give_the_file_that_the_whole_gives(tmp_path_factory, lengths, channels):
    folder, audio = tmp_path_factory.mktemp("blocks"), music(0, 2.0, channels=channels)
    write_flac(folder / "whole", audio, RATE_HZ)
    with open_flac(folder / "blocks", RATE_HZ, channels) as writer:
        for block in cut(audio, lengths):
            writer.add(block)
    assert (folder / "blocks").read_bytes() == (folder / "whole").read_bytes()


def test_an_error_on_the_way_passes_through_and_leaves_what_was_there(tmp_path):
    write_flac(tmp_path / "a.flac", music(0, 1.0), RATE_HZ)
    before = (tmp_path / "a.flac").read_bytes()

    def fail():
        with open_flac(tmp_path / "a.flac", RATE_HZ, 1) as writer:
            writer.add(music(1, 1.0))
            raise FileNotFoundError(2, "the source went away")

    with pytest.raises(FileNotFoundError, match="the source went away"):
        fail()
    assert (tmp_path / "a.flac").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_a_block_that_is_not_finite_leaves_nothing(tmp_path):
    def fail():
        with open_flac(tmp_path / "a.flac", RATE_HZ, 1) as writer:
            writer.add(music(1, 1.0))
            writer.add(np.full((1, 10), np.inf, np.float32))

    with pytest.raises(AudioError, match=r"a\.flac: not written: the audio holds NaN or infinity"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 2, 100, 3000, 9000, 100_000])
def test_a_disk_that_fills_up_is_noticed_to_the_last_byte(tmp_path, missing):
    # libsndfile itself closes a FLAC file that lacks its last 9 kB without a word
    audio = np.random.default_rng(0).uniform(-1, 1, (1, 100_000)).astype(np.float32)
    write_flac(tmp_path / "whole", audio, RATE_HZ)
    size = (tmp_path / "whole").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, limits[1]))
    try:
        with pytest.raises(OutputError, match="cut: cannot be written: the disk is full"):
            write_flac(tmp_path / "cut", audio, RATE_HZ)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
