"""Short files of every container, tagged as common tagging programs tag them."""

import av
import numpy as np
import soundfile
from mutagen import aiff, apev2, asf, flac, id3, mp3, mp4, oggopus, oggvorbis, wave

RATE_HZ = 48000
SECONDS = 0.2

WORDS = {
    "title": "Tïtle",
    "artist": "Ann",
    "album": "Songs",
    "album_artist": "Ann & Co",
    "genre": "Jazz",
    "date": "2010",
    "tempo_bpm": "92",
    "key": "F#m",
    "licence": "CC BY 4.0",
    "track_number": "3",
}
PICTURE = b"\x89PNG\r\n" + bytes(range(256)) * 8
NOISE = 0.1 * np.sin(np.arange(int(RATE_HZ * SECONDS)) / 20.0)
AV_CODECS = {"m4a": "aac", "wma": "wmav2", "wv": "wavpack"}


def write_sound(path):
    """The same tone in the container the extension names, without tags."""
    codec = AV_CODECS.get(path.suffix[1:])
    if codec is None:
        subtype = {".opus": ("OGG", "OPUS"), ".rf64": ("RF64", "PCM_16")}
        container, subtype = subtype.get(path.suffix, (None, None))
        soundfile.write(path, NOISE, RATE_HZ, format=container, subtype=subtype)
        return path
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        stream.bit_rate = 128_000
        planar = NOISE[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout="mono")
        frame.rate = RATE_HZ
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def tag_vorbis(path, kind):
    tags = kind(path)
    words = WORDS | {"albumartist": WORDS["album_artist"], "bpm": "92", "initialkey": WORDS["key"]}
    words |= {"license": WORDS["licence"], "tracknumber": "3/12"}
    for name in words.keys() - {"album_artist", "tempo_bpm", "key", "licence", "track_number"}:
        tags[name] = [words[name]]
    tags["comment"] = tags["description"] = ["made with a tool"]
    tags["encoder"] = ["tool 1.0"]
    if kind is flac.FLAC:
        picture = flac.Picture()
        picture.data = PICTURE
        tags.add_picture(picture)
    tags.save()


def id3_frames(encoding=3):
    text = {
        "TIT2": "title", "TPE1": "artist", "TALB": "album", "TPE2": "album_artist",
        "TCON": "genre", "TDRC": "date", "TBPM": "tempo_bpm", "TKEY": "key",
    }  # fmt: skip
    frames = [getattr(id3, f)(encoding=encoding, text=[WORDS[w]]) for f, w in text.items()]
    return [
        *frames,
        id3.TRCK(encoding=0, text=["3/12"]),
        id3.TXXX(encoding=3, desc="LICENSE", text=[WORDS["licence"]]),
        id3.TXXX(encoding=3, desc="replaygain_track_gain", text=["-3 dB"]),
        id3.COMM(encoding=3, lang="eng", desc="", text=["made with a tool"]),
        id3.APIC(encoding=0, mime="image/png", type=3, desc="", data=PICTURE),
        id3.PRIV(owner="tool", data=PICTURE),
    ]


def tag_id3(path, kind):
    file = kind(path)
    if file.tags is None:
        file.add_tags()
    for frame in id3_frames():
        file.tags.add(frame)
    file.save()


def tag_mp4(path):
    file = mp4.MP4(path)
    names = {
        "\xa9nam": "title", "\xa9ART": "artist", "\xa9alb": "album", "aART": "album_artist",
        "\xa9gen": "genre", "\xa9day": "date",
    }  # fmt: skip
    for name, word in names.items():
        file[name] = [WORDS[word]]
    file["tmpo"], file["trkn"] = [92], [(3, 12)]
    file["\xa9cmt"], file["desc"] = ["made with a tool"], ["made with a tool"]
    for name, word in (("initialkey", "key"), ("LICENSE", "licence")):
        file[f"----:com.apple.iTunes:{name}"] = [mp4.MP4FreeForm(WORDS[word].encode())]
    file["----:com.apple.iTunes:GENRE"] = [mp4.MP4FreeForm(b"\xff\xfe\x00")]
    file["covr"] = [mp4.MP4Cover(PICTURE, mp4.MP4Cover.FORMAT_PNG)]
    file.save()


def tag_asf(path):
    file = asf.ASF(path)
    names = {
        "Title": "title", "Author": "artist", "WM/AlbumTitle": "album", "WM/Genre": "genre",
        "WM/AlbumArtist": "album_artist", "WM/Year": "date", "WM/BeatsPerMinute": "tempo_bpm",
        "WM/InitialKey": "key", "LICENSE": "licence",
    }  # fmt: skip
    for name, word in names.items():
        file[name] = [WORDS[word]]
    file["WM/TrackNumber"] = [asf.ASFDWordAttribute(3)]
    file["WM/Picture"] = [asf.ASFByteArrayAttribute(PICTURE)]
    file["Description"] = ["made with a tool"]
    file.save()


def tag_ape(path):
    tags = apev2.APEv2()
    names = {
        "Title": "title", "Artist": "artist", "Album": "album", "Album Artist": "album_artist",
        "Genre": "genre", "Year": "date", "BPM": "tempo_bpm", "InitialKey": "key",
        "License": "licence", "Track": "track_number",
    }  # fmt: skip
    for name, word in names.items():
        tags[name] = WORDS[word]
    tags["Comment"] = "made with a tool"
    tags["Cover Art (Front)"] = apev2.APEValue(PICTURE, apev2.BINARY)
    tags.save(path)


TAGGERS = {
    "flac": lambda path: tag_vorbis(path, flac.FLAC),
    "ogg": lambda path: tag_vorbis(path, oggvorbis.OggVorbis),
    "opus": lambda path: tag_vorbis(path, oggopus.OggOpus),
    "mp3": lambda path: tag_id3(path, mp3.MP3),
    "wav": lambda path: tag_id3(path, wave.WAVE),
    "aiff": lambda path: tag_id3(path, aiff.AIFF),
    "m4a": tag_mp4,
    "wma": tag_asf,
    "wv": tag_ape,
}


def write_tagged(folder, kind):
    """A file of a kind with `WORDS` in its tags."""
    path = write_sound(folder / f"song.{kind}")
    TAGGERS[kind](path)
    return path
