"""Files that are no whole music: each must be refused, in words that say why."""

import gzip
import io
import struct
import zipfile

import numpy as np
import soundfile

from tests.faults.cases import reject
from tests.faults.sound_formats import edited, ffmpeg, id3, raw, set_data_size, sndfile
from tests.faults.sounds import RATE_HZ, SECONDS, chords, mp3, write

HOURS_2_S = 7200


def half(content):
    return content[: len(content) // 2]


def hole(content):
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    return content


def flip(content):
    content[len(content) // 2] ^= 0x10
    return content


def text(words):
    return lambda path: path.write_text(words)


def sound_of(values, container="WAV", subtype="FLOAT", *, rate_hz=RATE_HZ, channels=1):
    def make(path):
        sound = np.resize(np.asarray(values, np.float32), (channels, int(SECONDS * RATE_HZ)))
        write(path, sound, container, subtype, rate_hz=rate_hz)

    return make


def with_value(value):
    sound = chords(70, channels=1)
    sound[0, 30_000] = value
    return sound_of(sound[0])


def short(num_samples):
    return lambda path: write(path, chords(71, 1.0)[:, :num_samples], "WAV", "PCM_16")


def changing_mp3():
    return mp3(72, 1.0) + mp3(73, 1.0, rate_hz=48_000)


def mono_then_stereo():
    return mp3(74, 1.0, channels=1, rate_hz=44_100) + mp3(75, 1.0)


def lying_xing(content):
    at = content.index(b"Xing") + 8
    content[at : at + 4] = struct.pack(">I", 100_000)
    return content


def two_rates_ogg():
    parts = []
    for seed, rate_hz in ((76, RATE_HZ), (77, 48_000)):
        file = io.BytesIO()
        write(file, chords(seed, rate_hz=rate_hz), "OGG", "VORBIS", rate_hz=rate_hz)
        parts.append(file.getvalue())
    return b"".join(parts)


def boastful_flac(content):
    content[21] |= 0x0F  # the count of samples, 36 bits, says 12 days
    return content


def modest_flac(content):
    content[22:26] = struct.pack(">I", RATE_HZ)  # a count of samples that is too small
    return content


def boastful_rf64(content):
    content[28:36] = struct.pack("<Q", 1 << 60)
    return content


def boastful_caf(content):
    at = content.index(b"data") + 4
    content[at : at + 8] = struct.pack(">Q", 1 << 60)
    return content


def boastful_aiff(content):
    at = content.index(b"COMM") + 10
    content[at : at + 4] = b"\xff" * 4
    return content


def silent_hours(path):
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(HOURS_2_S // 60):
            file.write(np.zeros(60 * 8_000, np.int16))


def zip_bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("song.wav", bytes(50 << 20))
    return file.getvalue()


CUT = [
    reject(f"cut/half.{name}", edited(make, half), reason)
    for name, make, reason in (
        ("wav", sndfile(80, "WAV", "PCM_16"), "cut off: its header announces"),
        ("rf64", sndfile(80, "RF64", "PCM_16"), "cut off: its header announces"),
        ("w64", sndfile(80, "W64", "PCM_16"), "cut off: its header announces"),
        ("aiff", sndfile(80, "AIFF", "PCM_16"), "cut off: its header announces"),
        ("caf", sndfile(80, "CAF", "PCM_16"), "cut off: its header announces"),
        ("au", sndfile(80, "AU", "PCM_16"), "cut off: its header announces"),
        ("flac", sndfile(80, "FLAC", "PCM_16"), "damaged: decoding stops"),
        ("ogg", sndfile(80, "OGG", "VORBIS"), "cut off: "),
        ("opus", sndfile(80, "OGG", "OPUS", rate_hz=48_000), "cut off: "),
        ("mp3", raw(lambda: mp3(80)), "cut off: ends within a frame"),
        ("m4a", ffmpeg(80, "aac", "ipod"), "cut off: "),
        ("alac.m4a", ffmpeg(80, "alac", "ipod", options={"movflags": "faststart"}), "cut off: "),
        ("aac", ffmpeg(80, "aac", "adts"), "cut off: ends within a frame"),
        ("wma", ffmpeg(80, "wmav2", "asf", bit_rate=128_000), ""),
        ("wv", ffmpeg(80, "wavpack", "wv"), ""),
        ("tta", ffmpeg(80, "tta", "tta"), ""),
        ("mka", ffmpeg(80, "aac", "matroska"), "cut off: its header announces"),
        ("oga", ffmpeg(80, "flac", "ogg"), "cut off: "),
    )
]
DAMAGED = [
    reject(f"damaged/{name}", make, reason)
    for name, make, reason in (
        ("flip.flac", edited(sndfile(81, "FLAC", "PCM_16"), flip), "damaged: "),
        ("flip.ogg", edited(sndfile(81, "OGG", "VORBIS"), flip), "damaged: the Ogg page at byte"),
        ("flip.wv", edited(ffmpeg(81, "wavpack", "wv"), flip), "damaged: "),
        ("flip.tta", edited(ffmpeg(81, "tta", "tta"), flip), "damaged: "),
        ("hole.flac", edited(sndfile(81, "FLAC", "PCM_16"), hole), "damaged: "),
        ("hole.mp3", edited(raw(lambda: mp3(81)), hole), "damaged: no whole frame follows at"),
        ("hole.aac", edited(ffmpeg(81, "aac", "adts"), hole), "damaged: no whole frame follows"),
        ("hole.m4a", edited(ffmpeg(81, "aac", "ipod"), hole), "damaged: decoding stops"),
        ("starts within.mp3", raw(lambda: mp3(82)[100:]), "damaged: no whole frame in its first"),
        ("pages gone.ogg", edited(sndfile(82, "OGG", "VORBIS"), lambda c: drop_page(c)), "damaged"),
        ("changes rate.mp3", raw(changing_mp3), "changes midway: sample rate goes from 44100"),
        ("changes channels.mp3", raw(mono_then_stereo), "changes midway: goes from 1 to 2"),
        ("changes rate.ogg", raw(two_rates_ogg), "changes midway: an Ogg chain of 44100 Hz"),
        (
            "two streams.mka",
            ffmpeg(78, "flac", "matroska", streams=2),
            "several streams: 2 of sound side by side",
        ),
    )
]


def drop_page(content):
    pages = bytes(content).split(b"OggS")
    return b"OggS".join(pages[:4] + pages[5:])


LIES = [
    reject(f"lies/{name}", make, reason)
    for name, make, reason in (
        ("36 bits.flac", edited(sndfile(83, "FLAC", "PCM_16"), boastful_flac), ""),
        ("too few.flac", edited(sndfile(83, "FLAC", "PCM_16"), modest_flac), "damaged: what is"),
        ("2^60.rf64", edited(sndfile(83, "RF64", "PCM_16"), boastful_rf64), "cut off: "),
        ("2^60.caf", edited(sndfile(83, "CAF", "PCM_16"), boastful_caf), "cut off: "),
        ("2^32.aiff", edited(sndfile(83, "AIFF", "PCM_16"), boastful_aiff), "cut off: "),
        ("xing.mp3", edited(raw(lambda: mp3(83, mode="VARIABLE")), lying_xing), "cut off: "),
        (
            "wrapped at 4 GiB.wav",
            edited(sndfile(83, "WAV", "PCM_16"), set_data_size(1000)), "header lies: ",
        ),
        ("1 Hz.wav", sound_of(chords(84)[0], subtype="PCM_16", rate_hz=1), "sample rate: 1 Hz"),
        ("65 channels.wav", sound_of([0.1], channels=65), "channels: 65, at most 64"),
        ("2 hours of nothing.flac", silent_hours, "too long: more than 60 s"),
    )
]  # fmt: skip
EMPTY = [
    reject(f"empty/{name}", make, reason)
    for name, make, reason in (
        ("zero.wav", lambda path: path.touch(), "empty: the file has 0 bytes"),
        ("zero.m4a", lambda path: path.touch(), "empty: the file has 0 bytes"),
        ("header.wav", short(0), "empty: holds no sample"),
        ("one sample.wav", short(1), "too short"),
        ("short.wav", short(RATE_HZ // 3), "too short"),
        ("silence.wav", sound_of([0.0]), "silent"),
        ("nan.wav", with_value(np.nan), "non-finite: "),
        ("inf.wav", with_value(-np.inf), "non-finite: "),
        ("tags.mp3", raw(lambda: id3(2000)), "empty: holds tags and no sound"),
    )
]
NO_MUSIC = [
    reject(f"no music/{name}", make, f"not music: {reason}")
    for name, make, reason in (
        ("lyrics.wav", text("la la la\n" * 500), "no format that can be decoded"),
        ("error.mp3", text("<!DOCTYPE html><title>404</title>"), "no format"),
        ("cover.mp3", raw(lambda: b"\x89PNG\r\n\x1a\n" + bytes(999)), "no format that can be dec"),
        ("bomb.flac", raw(zip_bomb), "no format that can be decoded (it is a ZIP archive)"),
        ("bomb.wav", raw(lambda: gzip.compress(bytes(20 << 20))), "no format"),
        ("list.m4a", text("#EXTM3U\nhttp://127.0.0.1/x.mp3\n"), "no format that can be decoded"),
        ("concat.wav", text("ffconcat version 1.0\nfile /etc/passwd\n"), "no format"),
        ("stream.aac", text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"), "no format"),
        ("random.mp3", raw(lambda: np.random.default_rng(0).bytes(50_000)), "no format"),
        ("bare.ac3", ffmpeg(85, "ac3", "ac3"), "no format that can be decoded (it is bare AC-3"),
    )
]
ALL = [*CUT, *DAMAGED, *LIES, *EMPTY, *NO_MUSIC]
