"""Laws of what is counted before decoding: MPEG frames, Ogg pages, chunks, sections of a file."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.files.containers import check_whole
from melodac.audio.files.decoders import open_section
from melodac.audio.files.formats import AIFF, CAF, W64, WAV, recognise
from melodac.audio.files.mpeg import count_adts, count_mpeg, read_adts_header, read_mpeg_header
from melodac.audio.files.ogg import find_links, ogg_checksum
from melodac.errors import UnreadableAudioError
from tests.faults.sound_formats import chain, sndfile, without_info_frame
from tests.faults.sounds import chords, encode, mp3, write
from tests.reference.ogg_checksum import ogg_checksum_slowly


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Bytes as an open file."""
    path = tmp_path_factory.mktemp("opened") / "file"
    with contextlib.ExitStack() as files:

        def make(content):
            path.write_bytes(content)
            return files.enter_context(path.open("rb"))

        yield make


@given(st.binary(max_size=300))
def test_the_fast_checksum_is_the_slow_one(page):
    assert ogg_checksum(page) == ogg_checksum_slowly(page)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_section_reads_like_a_file_of_its_own(opened, content, data):
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    section = open_section(opened(content), start, end)
    plain = io.BytesIO(content[start:end])
    for _ in range(6):
        offset = data.draw(st.integers(0, len(content)))
        whence = data.draw(st.sampled_from([io.SEEK_SET, io.SEEK_END]))
        assert section.seek(offset, whence) == plain.seek(offset, whence)
        count = data.draw(st.integers(0, 50))
        assert section.read(count) == plain.read(count)
        assert section.tell() == plain.tell()


RATES_HZ = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_frames_of_an_mp3_add_up_to_what_was_encoded(opened, rate_hz, mode):
    content = mp3(1, 1.0, mode=mode, rate_hz=rate_hz, channels=1)
    claim = count_mpeg(opened(content), 0)
    assert (claim.num_samples, claim.sample_rate_hz) == (rate_hz, rate_hz)
    assert claim.announced_samples == rate_hz
    bare = bytes(without_info_frame(bytearray(content)))
    without = count_mpeg(opened(bare), 0)
    assert 0 < without.num_samples - rate_hz <= 4 * 1152  # what the encoder put around it
    assert without.announced_samples == 0


@given(st.binary(min_size=4, max_size=7))
def test_no_header_is_a_frame_without_length(header):
    for frame in (read_mpeg_header(header), read_adts_header(header)):
        assert frame is None or (frame.size_bytes > 4 and frame.num_samples > 0)


def test_frames_of_a_raw_aac_stream_add_up(tmp_path):
    encode(tmp_path / "a.aac", chords(2, 1.0), "aac", "adts")
    with (tmp_path / "a.aac").open("rb") as file:
        claim = count_adts(file, 0)
    assert claim.num_samples % 1024 == 0
    assert 0 <= claim.num_samples - 44_100 <= 2 * 1024


def test_a_chain_is_found_link_by_link(opened, tmp_path):
    path = tmp_path / "a.ogg"
    chain(*[sndfile(seed, "OGG", "VORBIS") for seed in (1, 2)])(path)
    content = path.read_bytes()
    links = find_links(opened(content))
    assert [link.codec for link in links] == ["vorbis", "vorbis"]
    assert links[0].start == 0
    assert links[0].end == links[1].start == content.index(b"OggS\0\2", 1)
    assert links[1].end == len(content)
    assert find_links(opened(content + b"TAG" + bytes(125))) == links


@pytest.mark.parametrize(
    ("container", "known"),
    [("WAV", WAV), ("W64", W64), ("AIFF", AIFF), ("CAF", CAF), ("RF64", WAV)],
)
def test_chunks_tell_every_missing_byte_of_sound(opened, container, known):
    file = io.BytesIO()
    write(file, chords(3, 0.01), container, "PCM_16")
    content = file.getvalue()
    assert recognise(opened(content)).format == known
    assert not check_whole(opened(content), known, 0)
    for size in range(len(content) - 1, 100, -97):
        with pytest.raises(UnreadableAudioError, match="cut off"):
            check_whole(opened(content[:size]), known, 0)


@given(st.binary(max_size=400), st.sampled_from([b"", b"RIFF\xff\xff\xff\xffWAVE", b"caff\0\1\0\0",
    b"\0\0\0\x20ftypM4A ", b"\x1a\x45\xdf\xa3", b"OggS\0\2", b"\xff\xfb\x90\x44", b"\xff\xf1\x50\x80",
    b"FORM\0\0\0\xffAIFF", b"ID3\4\0\0\0\0\0\1", b"fLaC\0\0\0\x22"]))  # fmt: skip
def test_any_bytes_are_refused_in_one_line_or_understood(opened, noise, magic):
    file = opened(magic + noise)
    try:
        found = recognise(file)
        check_whole(file, found.format, found.start)
        for count in (count_mpeg, count_adts):
            count(file, found.start)
        find_links(file)
    except UnreadableAudioError as error:
        assert "\n" not in str(error)  # noqa: PT017  either way is right


def test_padding_of_zeros_is_no_damage_but_anything_else_is(opened):
    content = mp3(4, 1.0)
    whole = count_mpeg(opened(content), 0)
    assert count_mpeg(opened(content + bytes(200_000)), 0) == whole
    stray = bytearray(content + bytes(200_000))
    stray[-1] = 1
    with pytest.raises(UnreadableAudioError, match=r"damaged: no whole frame follows at 1\.\d s"):
        count_mpeg(opened(stray), 0)
    noise = np.random.default_rng(0).bytes(999)
    with pytest.raises(UnreadableAudioError, match="damaged: no whole frame in its first 999"):
        recognise(opened(noise.replace(b"\xff", b"\0") + content))
