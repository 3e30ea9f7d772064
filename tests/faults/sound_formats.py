"""Whole files in every format, plain and odd: all must be read to their last sample."""

import struct

from tests.faults.cases import accept
from tests.faults.sounds import RATE_HZ, SECONDS, chords, encode, mp3, write

AAC_FRAME_S = 1024 / RATE_HZ


def sndfile(seed, container, subtype, *, channels=2, rate_hz=RATE_HZ):
    def make(path):
        sound = chords(seed, channels=channels, rate_hz=rate_hz)
        write(path, sound, container, subtype, rate_hz=rate_hz)

    return make


def ffmpeg(seed, codec, container, **settings):
    return lambda path: encode(path, chords(seed), codec, container, **settings)


def raw(make):
    return lambda path: path.write_bytes(make())


def edited(make, edit):
    """A file made and then changed: `edit` maps its bytes to others."""

    def make_and_edit(path):
        make(path)
        path.write_bytes(bytes(edit(bytearray(path.read_bytes()))))

    return make_and_edit


def set_data_size(size):
    def edit(content):
        at = content.index(b"data") + 4
        content[at : at + 4] = struct.pack("<I", size)
        return content

    return edit


def without_md5(content):
    content[26:42] = bytes(16)
    return content


def without_length(content):
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return content


def without_info_frame(content):
    """An MP3 without its Xing header: whoever guesses the length from the first frames is wrong."""
    second = content.index(content[:2], 4)
    return content[second:]


def id3(num_bytes=300):
    return b"ID3\x04\0\0" + bytes((0, 0, num_bytes >> 7, num_bytes & 0x7F)) + bytes(num_bytes)


def ape_tag():
    item = struct.pack("<II", 3, 0) + b"Title\0abc"
    fields = struct.pack("<4I", 2000, len(item) + 32, 1, 0) + bytes(8)
    return item + b"APETAGEX" + fields


def chain(*parts):
    def make(path):
        content = b""
        for part in parts:
            part(path)
            content += path.read_bytes()
        path.write_bytes(content)

    return make


PLAIN = [
    accept("formats/u8.wav", sndfile(1, "WAV", "PCM_U8"), SECONDS),
    accept("formats/16.wav", sndfile(2, "WAV", "PCM_16"), SECONDS),
    accept("formats/24.wav", sndfile(3, "WAV", "PCM_24"), SECONDS),
    accept("formats/32.wav", sndfile(4, "WAV", "PCM_32"), SECONDS),
    accept("formats/float.wav", sndfile(5, "WAV", "FLOAT"), SECONDS),
    accept("formats/double.wav", sndfile(6, "WAV", "DOUBLE"), SECONDS),
    accept("formats/ex.wavex", sndfile(7, "WAVEX", "PCM_24"), SECONDS),
    accept("formats/a.rf64", sndfile(8, "RF64", "PCM_16"), SECONDS),
    accept("formats/a.w64", sndfile(9, "W64", "PCM_24"), SECONDS),
    accept("formats/a.aiff", sndfile(10, "AIFF", "PCM_16"), SECONDS),
    accept("formats/a.aifc", sndfile(11, "AIFF", "FLOAT"), SECONDS),
    accept("formats/a.caf", sndfile(12, "CAF", "PCM_24"), SECONDS),
    accept("formats/a.au", sndfile(13, "AU", "PCM_16"), SECONDS),
    accept("formats/8.flac", sndfile(14, "FLAC", "PCM_S8"), SECONDS),
    accept("formats/16.flac", sndfile(15, "FLAC", "PCM_16"), SECONDS, decoder="libsndfile"),
    accept("formats/24.flac", sndfile(16, "FLAC", "PCM_24"), SECONDS),
    accept("formats/a.ogg", sndfile(17, "OGG", "VORBIS"), SECONDS, decoder="libsndfile"),
    accept("formats/a.opus", sndfile(18, "OGG", "OPUS", rate_hz=48_000), SECONDS),
    accept("formats/cbr.mp3", raw(lambda: mp3(19)), SECONDS, decoder="libsndfile"),
    accept("formats/vbr.mp3", raw(lambda: mp3(20, mode="VARIABLE")), SECONDS),
    accept("formats/mono.mp3", raw(lambda: mp3(21, channels=1, rate_hz=22_050)), SECONDS),
    accept("formats/a.mp2", ffmpeg(22, "mp2", "mp2"), SECONDS, tolerance_s=0.03),
    accept("formats/aac.m4a", ffmpeg(23, "aac", "ipod"), SECONDS, decoder="FFmpeg"),
    accept(
        "formats/fast.m4a",
        ffmpeg(24, "aac", "ipod", options={"movflags": "faststart"}), SECONDS,
    ),
    accept("formats/alac.m4a", ffmpeg(25, "alac", "ipod"), SECONDS, decoder="FFmpeg"),
    accept("formats/alac.caf", ffmpeg(26, "alac", "caf"), SECONDS, decoder="FFmpeg"),
    accept("formats/a.aac", ffmpeg(27, "aac", "adts"), SECONDS, tolerance_s=2 * AAC_FRAME_S),
    accept("formats/a.wma", ffmpeg(28, "wmav2", "asf", bit_rate=128_000), 1.99, tolerance_s=0.06),
    accept("formats/a.wv", ffmpeg(29, "wavpack", "wv"), SECONDS, decoder="FFmpeg"),
    accept("formats/a.tta", ffmpeg(30, "tta", "tta"), SECONDS, decoder="FFmpeg"),
    accept("formats/a.mka", ffmpeg(31, "aac", "matroska"), SECONDS, tolerance_s=AAC_FRAME_S),
    accept("formats/flac.oga", ffmpeg(32, "flac", "ogg"), SECONDS, decoder="FFmpeg"),
]  # fmt: skip

ODD = [
    accept("odd/192k.wav", sndfile(40, "WAV", "PCM_16", rate_hz=192_000), SECONDS),
    accept("odd/8k.wav", sndfile(41, "WAV", "PCM_16", rate_hz=8_000), SECONDS),
    accept(
        "odd/8 channels.wav",
        lambda path: write(path, chords(42, channels=8), "WAV", "PCM_16"), SECONDS,
    ),
    accept("odd/flac.mp3", sndfile(43, "FLAC", "PCM_16"), SECONDS),
    accept("odd/m4a.wav", ffmpeg(44, "aac", "ipod"), SECONDS),
    accept("odd/WAV.OGG", sndfile(45, "WAV", "PCM_16"), SECONDS),
    accept(
        "odd/streamed 0.wav",
        edited(sndfile(46, "WAV", "PCM_16"), set_data_size(0)), SECONDS, decoder="FFmpeg",
    ),
    accept(
        "odd/streamed ff.wav",
        edited(sndfile(47, "WAV", "PCM_16"), set_data_size(0xFFFFFFFF)), SECONDS,
    ),
    accept(
        "odd/streamed 7f.wav",
        edited(sndfile(48, "WAV", "PCM_16"), set_data_size(0x7FFFF000)), SECONDS,
    ),
    accept(
        "odd/chunk after.wav",
        edited(sndfile(49, "WAV", "PCM_16"), lambda c: c + b"JUNK\x88\x13\0\0" + b"x" * 5000),
        SECONDS,
    ),
    accept("odd/chain.ogg", chain(*[sndfile(s, "OGG", "VORBIS") for s in (50, 51, 52)]), 6.0),
    accept(
        "odd/chain.opus",
        chain(*[sndfile(s, "OGG", "OPUS", rate_hz=48_000) for s in (53, 54)]), 4.0,
    ),
    accept(
        "odd/vbr without xing.mp3",
        edited(raw(lambda: mp3(55, 6.0, mode="VARIABLE")), without_info_frame),
        6.0, tolerance_s=0.06, decoder="FFmpeg",
    ),
    accept(
        "odd/cbr without xing.mp3",
        edited(raw(lambda: mp3(56)), without_info_frame), SECONDS, tolerance_s=0.06,
    ),
    accept("odd/tags.mp3", raw(lambda: id3() + mp3(57) + ape_tag() + b"TAG" + bytes(125)), SECONDS),
    accept("odd/zeros before.mp3", raw(lambda: id3() + bytes(900) + mp3(58)), SECONDS),
    accept("odd/id3.flac", edited(sndfile(59, "FLAC", "PCM_16"), lambda c: id3() + c), SECONDS),
    accept(
        "odd/no md5.flac",
        edited(sndfile(60, "FLAC", "PCM_16"), without_md5), SECONDS, decoder="FFmpeg",
    ),
    accept("odd/no length.flac", edited(sndfile(61, "FLAC", "PCM_16"), without_length), SECONDS),
]  # fmt: skip
