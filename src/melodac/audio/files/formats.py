"""Recognition of formats by the first bytes of a file, never by its name.

One table lists containers, their decoders, and their names in FFmpeg. A demuxer is always named, so
FFmpeg never guesses and no playlist, picture or script can pass for music.
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal

from melodac.audio.files.mpeg import find_first_frame, is_blank, read_at
from melodac.errors import UnreadableAudioError

HEAD_BYTES = 64
ID3_HEADER_BYTES = 10

Backend = Literal["libsndfile", "FFmpeg"]


@dataclass(frozen=True)
class Format:
    """Container format and its decoder."""

    container: str
    demuxer: str
    """Name of the format in FFmpeg."""
    backend: Backend = "FFmpeg"
    is_length_exact: bool = True
    """True if FFmpeg reads the length in a header; otherwise it guesses from the bit rate."""
    tolerance_s: float = 0.1
    """Seconds that may be missing compared with the header: some count an encoder's padding."""


@dataclass(frozen=True)
class Recognised:
    """Format of a file and the offset where it begins, after leading tags."""

    format: Format
    start: int


WAV = Format("WAV", "wav", "libsndfile")
W64 = Format("W64", "w64", "libsndfile")
AIFF = Format("AIFF", "aiff", "libsndfile")
CAF = Format("CAF", "caf", "libsndfile")
AU = Format("AU", "au", "libsndfile")
FLAC = Format("FLAC", "flac", "libsndfile")
OGG = Format("OGG", "ogg", "libsndfile", is_length_exact=False)
MP3 = Format("MP3", "mp3", "libsndfile", is_length_exact=False)
MP4 = Format("MP4", "mov")
ASF = Format("ASF", "asf")
MATROSKA = Format("MATROSKA", "matroska", tolerance_s=0.03)
AAC = Format("AAC", "aac", is_length_exact=False)

W64_GUID = bytes.fromhex("726966662e91cf11a5d628db04c10000")
"""First bytes of Sony Wave64, its equivalent of RIFF."""

_MAGIC = (
    (0, b"fLaC", FLAC),
    (0, b"OggS", OGG),
    (0, b"caff", CAF),
    (0, b".snd", AU),
    (0, W64_GUID, W64),
    (4, b"ftyp", MP4),
    (4, b"moov", MP4),
    (4, b"mdat", MP4),
    (4, b"wide", MP4),
    (4, b"free", MP4),
    (0, bytes.fromhex("3026b2758e66cf11"), ASF),
    (0, bytes.fromhex("1a45dfa3"), MATROSKA),
    (0, b"wvpk", Format("WAVPACK", "wv")),
    (0, b"MAC ", Format("APE", "ape")),
    (0, b"TTA1", Format("TTA", "tta")),
    (0, b"tBaK", Format("TAK", "tak")),
    (0, b"MPCK", Format("MUSEPACK", "mpc8")),
    (0, b"MP+", Format("MUSEPACK", "mpc")),
    (0, b"DSD ", Format("DSF", "dsf")),
    (0, b"FRM8", Format("DSDIFF", "iff")),
)
_FORMS = {
    (b"RIFF", b"WAVE"): WAV, (b"RF64", b"WAVE"): WAV, (b"BW64", b"WAVE"): WAV,
    (b"FORM", b"AIFF"): AIFF, (b"FORM", b"AIFC"): AIFF,
}  # fmt: skip
_ENDLESS = "which cannot tell whether it is whole"
_FOREIGN = (
    (b"\x0b\x77", f"bare AC-3, {_ENDLESS}"), (bytes.fromhex("7ffe8001"), f"bare DTS, {_ENDLESS}"),
    (b"#!AMR", f"bare AMR, {_ENDLESS}"),
    (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "a gzip archive"), (b"7z\xbc", "an archive"),
    (b"Rar!", "an archive"), (b"%PDF", "a PDF"), (b"MThd", "MIDI, notes without sound"),
    (b"#EXTM3U", "a playlist"), (b"<!doctype", "a web page"), (b"<html", "a web page"),
)  # fmt: skip


def recognise(file: BinaryIO) -> Recognised:
    """Recognise the format of a file.

    Raises:
        UnreadableAudioError: If it is no format that can be decoded.
    """
    start = _skip_id3(file)
    head = read_at(file, start, HEAD_BYTES)
    known = _recognise_head(head)
    if known is not None:
        return Recognised(known, start)
    foreign = [what for magic, what in _FOREIGN if head.lower().startswith(magic.lower())]
    first = None if foreign else find_first_frame(file, start)
    if first is not None:
        if not is_blank(file, start, first):
            raise UnreadableAudioError(f"damaged: no whole frame in its first {first} bytes")
        return Recognised(MP3, first)
    if start and not head:
        raise UnreadableAudioError("empty: holds tags and no sound")
    what = f"it is {foreign[0]}" if foreign else "Format not recognised"
    raise UnreadableAudioError(
        f"not music: no format that can be decoded ({what}), export it as WAV or FLAC"
    )


def _recognise_head(head: bytes) -> Format | None:
    form = _FORMS.get((head[:4], head[8:12]))
    if form is not None:
        return form
    for offset, magic, known in _MAGIC:
        if head.startswith(magic, offset):
            return known
    # ADTS: twelve ones, then layer 0, which no MPEG audio frame has (ISO 13818-7, 6.2)
    return AAC if head[:1] == b"\xff" and head[1:2] and head[1] & 0xF6 == 0xF0 else None


def _skip_id3(file: BinaryIO) -> int:
    """Return the offset of the first byte after leading ID3v2 tags and their padding."""
    start = 0
    while (head := read_at(file, start, ID3_HEADER_BYTES))[:3] == b"ID3" and len(head) == 10:
        size = 0
        for byte in head[6:10]:  # seven bits each, ID3v2.4 section 3.1
            size = size << 7 | byte & 0x7F
        start += ID3_HEADER_BYTES + size + (ID3_HEADER_BYTES if head[5] & 0x10 else 0)
    return start
