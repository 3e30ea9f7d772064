"""Every name in a folder is seen once, judged the same way in any order, and opened never."""

import os
import random
import socket

import pytest

from melodac.audio import scan
from melodac.audio.scan import scan_folder
from melodac.errors import AudioError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def judged(root):
    return {entry.path: (entry.kind, entry.reason) for entry in scan_folder(root)}


def test_names_are_judged_by_what_they_are(tmp_path):
    touch(tmp_path, "b.wav", "a/B.FLAC", "a/c.m4a", "cover.jpg", "README.md", "compose/make.py")
    touch(tmp_path, "metadata.csv", "a/metadata.csv", ".hidden.wav", "._b.wav", ".git/x.wav")
    touch(tmp_path, "b.txt", "b_prompt.txt", "lonely.txt", "no_extension", "song.wav/inner.wav")
    assert judged(tmp_path) == {
        "._b.wav": ("ignored", "macOS resource fork"),
        ".git": ("ignored", "hidden folder, not entered"),
        ".hidden.wav": ("ignored", "hidden file"),
        "README.md": ("ignored", "documentation"),
        "a/B.FLAC": ("audio", ""),
        "a/c.m4a": ("audio", ""),
        "a/metadata.csv": ("metadata", "metadata"),
        "b.txt": ("side-car", "tags of b.wav"),
        "b.wav": ("audio", ""),
        "b_prompt.txt": ("side-car", "tags of b.wav"),
        "compose/make.py": ("ignored", "program"),
        "cover.jpg": ("ignored", "not audio"),
        "lonely.txt": ("ignored", "not audio"),
        "metadata.csv": ("metadata", "metadata"),
        "no_extension": ("ignored", "not audio"),
        "song.wav": ("ignored", "folder with the name of an audio file, not entered"),
    }


def test_side_cars_name_the_audio_file_they_lie_beside(tmp_path):
    touch(tmp_path, "x/a.mp3", "x/a.wav", "x/a.JSON", "x/a.txt", "x/a_prompt.txt", "x/a.lrc")
    touch(tmp_path, "x/b_prompt.wav", "x/b_prompt.txt", "x/b.txt", "a.json", "x/a_prompt.json")
    touch(tmp_path, "x/credits.flac", "x/credits.txt", "x/a.cue", "x/a.m3u")
    os.mkfifo(tmp_path / "x" / "credits.json")
    found = {e.path: e.beside for e in scan_folder(tmp_path) if e.kind == "side-car"}
    assert found == {
        "x/a.JSON": "x/a.mp3",
        "x/a.txt": "x/a.mp3",
        "x/a_prompt.txt": "x/a.mp3",
        "x/b_prompt.txt": "x/b_prompt.wav",
        "x/credits.txt": "x/credits.flac",
    }


def test_links_pipes_and_sockets_are_named_and_left_alone(tmp_path, monkeypatch):
    root = tmp_path / "music"
    touch(root, "real.wav", "album/other.wav")
    touch(tmp_path, "secret.wav")
    (root / "inside.wav").symlink_to("real.wav")
    (root / "outside.wav").symlink_to("../secret.wav")
    (root / "dangling.wav").symlink_to("nowhere.wav")
    (root / "loop.wav").symlink_to("loop.wav")
    (root / "album" / "up").symlink_to("..")
    (root / "away").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.wav")
    monkeypatch.chdir(root)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.wav")
        assert judged(root) == {
            "album/other.wav": ("audio", ""),
            "album/up": ("ignored", "link to a folder, not followed"),
            "away": ("ignored", "link out of the folder, not followed"),
            "dangling.wav": ("ignored", "link to nothing"),
            "inside.wav": ("audio", ""),
            "loop.wav": ("ignored", "link loop"),
            "outside.wav": ("ignored", "link out of the folder, not followed"),
            "pipe.wav": ("ignored", "named pipe, not a file"),
            "real.wav": ("audio", ""),
            "socket.wav": ("ignored", "socket, not a file"),
        }


def test_order_is_that_of_paths_whatever_the_listing(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{folder}/{name}.wav" for folder in "bAc" for name in ("1", "10", "é", "B")))
    expected = scan_folder(tmp_path)
    assert [entry.path for entry in expected] == sorted(entry.path for entry in expected)
    listing = os.scandir

    class Shuffled:
        def __init__(self, folder):
            with listing(folder) as children:
                self.children = random.sample(list(children), k=len(os.listdir(folder)))  # noqa: PTH208

        def __enter__(self):
            return iter(self.children)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(scan.os, "scandir", Shuffled)
    for _ in range(3):
        assert scan_folder(tmp_path) == expected


def test_names_that_are_not_utf8_are_rejected_readably(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).touch()
    assert judged(tmp_path) == {r"caf\xe9.wav": ("reject", "file name: not UTF-8, rename it")}


def test_folders_nest_deeper_than_recursion(tmp_path):
    deep = tmp_path
    levels = 600
    for _ in range(levels):
        deep /= "a"
        deep.mkdir()
    touch(deep, "x.wav")
    assert [entry.path for entry in scan_folder(tmp_path)] == ["a/" * levels + "x.wav"]


def test_a_linked_source_is_its_target(tmp_path):
    touch(tmp_path, "music/a.wav")
    (tmp_path / "link").symlink_to("music")
    assert [entry.path for entry in scan_folder(tmp_path / "link")] == ["a.wav"]


def test_missing_source_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere: no such folder, set ingest\.source"):
        scan_folder(tmp_path / "nowhere")


def test_source_must_be_a_folder(tmp_path):
    touch(tmp_path, "a.wav")
    with pytest.raises(AudioError, match=r"a\.wav: not a folder, set ingest\.source"):
        scan_folder(tmp_path / "a.wav")
