"""A listing stands for its folder, and only while the folder is what was listed."""

import os
import socket

import pytest

from melodac.audio.scan import scan_folder
from melodac.errors import AudioError, UnreadableAudioError
from pipeline.source.listing import check_unchanged, find_folder, find_unhashable, write_listing
from pipeline.watch.flows import check_request
from tests.pipeline.watch.test_check_request import params_only  # noqa: F401  a fixture


@pytest.fixture
def music(tmp_path):
    folder = tmp_path / "music"
    (folder / "album").mkdir(parents=True)
    (folder / "album" / "song.wav").write_bytes(b"sound")
    (folder / "album" / "song.txt").write_text("a song")
    return folder


def spoil(folder, kind):
    path = folder / "album" / f"{kind}.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nothing")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(os.path.relpath(path))
    else:
        (folder / "album" / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"sound")


def test_a_listing_stands_for_its_folder(music, tmp_path):
    write_listing(music, tmp_path / "music.json")
    assert find_folder(tmp_path / "music.json") == music
    assert find_folder(music) == music
    check_unchanged(tmp_path / "music.json", scan_folder(music))


def test_the_listing_of_the_same_music_is_the_same_bytes(music, tmp_path):
    write_listing(music, tmp_path / "one")
    write_listing(music, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_new_content_of_the_same_size_is_another_listing(music, tmp_path):
    write_listing(music, tmp_path / "one")
    (music / "album" / "song.wav").write_bytes(b"music")
    write_listing(music, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda song: song.unlink(),
        lambda song: song.write_bytes(b"longer than before"),
        lambda song: song.with_name("new.wav").write_bytes(b""),
    ],
    ids=["gone", "longer", "new"],
)
def test_a_folder_that_changed_since_is_refused(music, tmp_path, change):
    write_listing(music, tmp_path / "music.json")
    change(music / "album" / "song.wav")
    with pytest.raises(AudioError, match=r"changed since.*album/.*run `melodac scan` again"):
        check_unchanged(tmp_path / "music.json", scan_folder(music))


def test_another_file_is_no_listing(music):
    with pytest.raises(AudioError, match="neither a folder nor a listing"):
        find_folder(music / "album" / "song.txt")


@pytest.mark.parametrize("kind", ["pipe", "link", "socket", "name"])
def test_what_dvc_cannot_hash_is_named_before_dvc_starts(params_only, monkeypatch, kind):  # noqa: F811
    source = params_only / "data" / "sample"
    (source / "album").mkdir()
    assert not find_unhashable(source)
    monkeypatch.chdir(source)  # a socket's path must be short
    spoil(source, kind)
    monkeypatch.chdir(params_only)
    with pytest.raises(UnreadableAudioError, match=r"DVC cannot read.*melodac scan data/sample"):
        check_request([])
    write_listing(source, params_only / "music.json")
    check_request(["-S", "ingest.source=music.json"])
