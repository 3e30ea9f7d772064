"""Laws of embedded tags: the same words from every container, no junk, no picture, never fatal."""

import pickle
import random
import subprocess
import sys
from dataclasses import replace

import mutagen
import pytest
import soundfile
from mutagen import apev2, flac, id3, mp3, oggvorbis

from melodac.audio.metadata import embedded as bounded_file
from melodac.audio.metadata.embedded import EmbeddedTags, read_embedded
from tests.audio.metadata.tagged_files import (
    NOISE,
    RATE_HZ,
    TAGGERS,
    WORDS,
    write_sound,
    write_tagged,
)

PLAIN = [*TAGGERS, "caf", "w64", "rf64", "au"]


@pytest.mark.parametrize("kind", TAGGERS)
def test_every_container_says_the_same_and_its_junk_nothing(tmp_path, kind):
    path = write_tagged(tmp_path, kind)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert read_embedded(path) == EmbeddedTags(dict(sorted(WORDS.items())))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("kind", TAGGERS)
def test_the_extension_says_nothing(tmp_path, kind):
    renamed = write_tagged(tmp_path, kind).rename(tmp_path / "song.bin")
    assert read_embedded(renamed).fields == dict(sorted(WORDS.items()))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_file_without_tags_has_no_fields_and_no_problem(tmp_path, kind):
    assert read_embedded(write_sound(tmp_path / f"plain.{kind}")) == EmbeddedTags()


@pytest.mark.parametrize("kind", ["wav", "aiff", "caf"])
def test_text_chunks_are_read_where_there_is_no_tag_block(tmp_path, kind):
    path = tmp_path / f"song.{kind}"
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        file.title, file.artist, file.comment = "Tïtle", "Ann", "made with a tool"
        file.write(NOISE)
    assert read_embedded(path).fields == {"title": "Tïtle", "artist": "Ann"}


def test_the_tag_block_binds_more_than_text_chunks(tmp_path):
    path = tmp_path / "song.wav"
    with soundfile.SoundFile(path, "w", RATE_HZ, 1) as file:
        file.title, file.artist = "A title cut at thirty charact", "Ann"
        file.write(NOISE)
    tags = mutagen.File(path)
    tags.add_tags()
    tags.tags.add(id3.TIT2(encoding=3, text=["A title cut at thirty characters"]))
    tags.save()
    found = read_embedded(path)
    assert found.fields == {"title": "A title cut at thirty characters", "artist": "Ann"}


def tag_mp3(path, *frames, **save):
    file = mp3.MP3(path)
    file.add_tags()
    for frame in frames:
        file.tags.add(frame)
    file.save(**save)
    return read_embedded(path)


@pytest.fixture
def plain_mp3(tmp_path):
    return write_sound(tmp_path / "song.mp3")


def test_lists_keep_all_values_and_other_fields_the_first(plain_mp3):
    found = tag_mp3(
        plain_mp3,
        id3.TPE1(encoding=3, text=["Ann", "Bob", "Ann"]),
        id3.TIT2(encoding=3, text=["One", "Two"]),
    )
    assert found == EmbeddedTags({"artist": "Ann; Bob", "title": "One"})


def test_genre_numbers_are_names(plain_mp3):
    assert (
        tag_mp3(plain_mp3, id3.TCON(encoding=0, text=["(8)Fusion"])).fields["genre"]
        == "Jazz, Fusion"
    )


@pytest.mark.parametrize(
    ("encoding", "text", "read"),
    [(0, "TÃ¯tle", "Tïtle"), (0, "Tïtle", "Tïtle"), (3, "TÃ¯tle", "TÃ¯tle")],
    ids=["UTF-8 filed as Latin-1", "Latin-1", "meant so"],
)
def test_utf8_filed_as_latin1_is_read_as_utf8(plain_mp3, encoding, text, read):
    assert tag_mp3(plain_mp3, id3.TIT2(encoding=encoding, text=[text])).fields["title"] == read


def test_older_id3_says_the_same(plain_mp3):
    found = tag_mp3(plain_mp3, id3.TDRC(encoding=3, text=["2010"]), v2_version=3)
    assert found.fields == {"date": "2010"}


def test_ape_tags_behind_an_mp3_are_read(plain_mp3):
    tags = apev2.APEv2()
    tags["Title"] = "Tïtle"
    tags.save(plain_mp3)
    assert read_embedded(plain_mp3).fields == {"title": "Tïtle"}
    found = tag_mp3(plain_mp3, id3.TPE1(encoding=3, text=["Ann"]))
    assert found.fields == {"artist": "Ann", "title": "Tïtle"}


def test_id3_is_read_from_a_stream_whose_sound_mutagen_cannot_find(plain_mp3):
    tag_mp3(plain_mp3, id3.TPE1(encoding=3, text=["Ann"]))
    head = plain_mp3.read_bytes()[: id3.ID3(plain_mp3).size]
    plain_mp3.write_bytes(head + bytes(5000))
    assert read_embedded(plain_mp3) == EmbeddedTags({"artist": "Ann"})


def test_a_web_address_may_be_the_licence(plain_mp3):
    address = "https://creativecommons.org/licenses/by/4.0/"
    assert tag_mp3(plain_mp3, id3.WCOP(url=address)).fields == {"licence": address}


def test_values_are_inert_and_wrong_ones_told(tmp_path):
    path = write_sound(tmp_path / "song.flac")
    tags = flac.FLAC(path)
    tags["title"], tags["bpm"], tags["artist"] = "=1+1\x1b[31m\n<b>", "fast", "\u202ex" + "y" * 9000
    tags.save()
    found = read_embedded(path)
    assert found.fields == {"title": "=1+1[31m <b>", "artist": "x" + "y" * 3999}
    assert found.problem == (
        "artist has more than 4000 characters, cut; "
        "tempo_bpm must be a number from 20 to 400, got 'fast', not used"
    )


def test_the_answer_crosses_processes(tmp_path):
    found = replace(read_embedded(write_tagged(tmp_path, "flac")), problem="x")
    assert pickle.loads(pickle.dumps(found)) == found


def test_importing_it_loads_no_parser():
    code = "import sys, melodac.audio.metadata.embedded; sys.exit('mutagen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_file_is_told(tmp_path):
    assert read_embedded(tmp_path / "no.wav") == EmbeddedTags({}, EXPECTED_MISSING)


EXPECTED_MISSING = "; ".join(["cannot be read: No such file or directory"] * 2)


@pytest.mark.parametrize("kind", TAGGERS)
def test_damaged_tags_are_told_and_never_fatal(tmp_path, kind):
    whole = write_tagged(tmp_path, kind).read_bytes()
    path = tmp_path / f"damaged.{kind}"
    draw = random.Random(kind)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 4, 16))):
            start = draw.randrange(len(data) if draw.random() < 0.3 else min(len(data), 4096))
            data[start : start + 4] = draw.choice((b"\xff" * 4, bytes(4), draw.randbytes(4), b""))
        path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
        found = read_embedded(path)
        assert all(
            len(text) <= 4000 and text == " ".join(text.split()) for text in found.fields.values()
        )
        outcomes.add(bool(found.problem))
    assert True in outcomes


@pytest.mark.parametrize(
    ("start", "problem"),
    [(b"RIFF\xff\xff\xff\x7fWAVE", "parts"), (b"\0\0\0\x14ftypM4A \0\0\0\0M4A ", "parts")],
    ids=["wav", "m4a"],
)
def test_a_million_empty_parts_are_not_walked(tmp_path, monkeypatch, start, problem):
    monkeypatch.setattr(bounded_file, "MAX_READS", 2000)
    part = b"\0\0\0\x08free" if b"ftyp" in start else b"junk\0\0\0\0"
    path = tmp_path / ("bomb.m4a" if b"ftyp" in start else "bomb.wav")
    path.write_bytes(start + part * 5000)
    assert read_embedded(path).problem == "more than 2000 parts, not used"


def test_tags_nested_deeper_than_the_parser_goes_are_told(tmp_path):
    inner = b""
    for _ in range(3000):
        inner = (len(inner) + 8).to_bytes(4, "big") + b"moov" + inner
    path = tmp_path / "deep.m4a"
    path.write_bytes(b"\0\0\0\x14ftypM4A \0\0\0\0M4A " + inner)
    assert read_embedded(path) == EmbeddedTags({}, "damaged (RecursionError), not used")


def test_huge_tags_are_not_held(tmp_path, monkeypatch):
    path = write_tagged(tmp_path, "ogg")
    assert not read_embedded(path).problem
    monkeypatch.setattr(bounded_file, "MAX_BYTES", 1 << 20)
    tags = oggvorbis.OggVorbis(path)
    tags["title"] = "x" * (2 << 20)
    tags.save()
    assert read_embedded(path) == EmbeddedTags({}, "more than 1 MB of tags, not used")
