"""What lies in folders of music beside music: links, pipes, hidden and foreign files, odd names."""

import os
import socket

from tests.faults.cases import accept, ignore, reject
from tests.faults.sound_formats import raw, sndfile
from tests.faults.sounds import SECONDS


def a_socket(path):
    before = os.getcwd()  # noqa: PTH109  a socket's name must be short, so it is made from inside
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def folder_with_song(path):
    path.mkdir()
    sndfile(90, "WAV", "PCM_16")(path / "inside.wav")


def copy_of(name):
    return lambda path: path.write_bytes((path.parent / name).read_bytes())


def link(target):
    return lambda path: path.symlink_to(target)


def wav(seed):
    return sndfile(seed, "WAV", "PCM_16")


NAMES = [
    accept("names/grüße 音楽 🎵.wav", wav(91), SECONDS),
    accept("names/line\nbreak.wav", wav(92), SECONDS),
    accept("=cmd|' !A0.wav", wav(93), SECONDS, shown="./=cmd|' !A0.wav"),
    accept("names/<img src=x onerror=alert(1)>.wav", wav(94), SECONDS),
    accept('names/comma, "quote".wav', wav(95), SECONDS),
    accept("names/Case.wav", wav(96), SECONDS),
    accept("names/case.WAV", wav(97), SECONDS),
    accept("names/" + "long" * 60 + ".wav", wav(98), SECONDS),
    accept("deep/" + "a/" * 120 + "x.wav", wav(99), SECONDS),
    reject(
        "names/caf\udce9.wav",
        raw(lambda: b"RIFF"),
        "file name: not UTF-8",
        shown=r"names/caf\xe9.wav",
    ),
]
LINKS = [
    accept("links/real.wav", wav(101), SECONDS),
    reject("links/same.wav", link("real.wav"), "same audio"),
    reject("links/twin.wav", copy_of("real.wav"), "same audio"),
    ignore("links/out.wav", link("/etc/passwd"), "link out of the folder"),
    ignore("links/loop.wav", link("loop.wav"), "link loop"),
    ignore("links/nothing.wav", link("nowhere.wav"), "link to nothing"),
    ignore("links/up", link(".."), "link to a folder"),
]
ENTRIES = [
    ignore("entries/pipe.wav", os.mkfifo, "named pipe"),
    ignore("entries/socket.wav", a_socket, "socket"),
    ignore("entries/folder.wav", folder_with_song, "folder with the name of an audio file"),
    ignore("entries/.hidden.wav", wav(102), "hidden file"),
    ignore("entries/._fork.wav", raw(lambda: b"\0\5\x16\7" + bytes(99)), "macOS resource fork"),
    ignore("entries/.git", folder_with_song, "hidden folder"),
    ignore("entries/list.m3u", raw(lambda: b"/etc/passwd\nhttp://127.0.0.1/\n"), "not audio"),
    ignore("entries/disc.cue", raw(lambda: b'FILE "/etc/passwd" WAVE\n'), "not audio"),
    ignore("entries/cover.jpg", raw(lambda: b"\xff\xd8\xff" + bytes(99)), "not audio"),
    ignore("entries/README.md", raw(lambda: b"# music"), "documentation"),
    ignore("entries/setup.sh", raw(lambda: b"rm -rf /\n"), "program"),
    ignore("entries/no extension", wav(103), "not audio"),
    accept("entries/tagged.wav", wav(104), SECONDS),
    ignore("entries/tagged.json", raw(lambda: b"[" * 100_000), "tags of tagged.wav"),
    ignore("entries/tagged.txt", raw(lambda: b"\xff\xfe\0bad"), "tags of tagged.wav"),
    ignore("entries/metadata.csv", raw(lambda: b"file_name,genre\n../../x,=1+1\n\0"), "metadata"),
    ignore("metadata.jsonl", raw(lambda: b'{"file_name": "/etc/passwd"}\n{' * 3), "metadata"),
]
ALL = [*NAMES, *LINKS, *ENTRIES]
