"""Pages of an Ogg file, each verified, since an Ogg reader silently skips damaged pages.

A chain is several streams one after the other. libsndfile reads only the first, so all are located
here and each is read as a file of its own. RFC 3533 describes pages.
"""

import os
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from melodac.errors import UnreadableAudioError

PAGE_HEADER_BYTES = 27
MAX_TAIL_BYTES = 1 << 20
"""Longest tag after the last page, in bytes."""
_FIRST, _LAST = 2, 4
_CODECS = {
    b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex",
}  # fmt: skip
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Link:
    """Stream of a chain: its place in the file and its codec."""

    start: int
    end: int
    codec: str


@dataclass(frozen=True)
class _Page:
    flags: int
    serial: int
    number: int
    end: int
    codec: str
    """Codec, on the first page of an audio stream; else empty."""


def find_links(file: BinaryIO) -> list[Link]:
    """Return the audio streams of an Ogg file, in order.

    Raises:
        UnreadableAudioError: If a page is damaged or missing, a stream has no end, or several
            audio streams are multiplexed.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    links: list[Link] = []
    start = offset = 0
    codecs: list[str] = []
    numbers: dict[int, int] = {}  # number of the next page, by stream that has not ended
    while offset < size_bytes:
        page = _read_page(file, offset)
        if page is None:
            _check_tail(file, offset, is_over=not numbers and bool(links))
            break
        if page.flags & _FIRST:
            codecs.append(page.codec)
            numbers[page.serial] = page.number
        if numbers.pop(page.serial, None) != page.number:
            raise UnreadableAudioError(f"damaged: Ogg pages are missing before byte {offset}")
        offset = page.end
        if not page.flags & _LAST:
            numbers[page.serial] = page.number + 1
        elif not numbers:
            links.append(Link(start, offset, _one_codec(codecs)))
            start, codecs = offset, []
    if numbers:
        raise UnreadableAudioError("cut off: the Ogg stream has no end")
    return links


def ogg_checksum(page: bytes) -> int:
    """Return the CRC-32 of a page as Ogg defines it, with the checksum field set to zero.

    Ogg's CRC has zlib's polynomial, but takes the bits of each byte in the other order and starts
    from zero (RFC 3533, section 6): so bits are reversed before and after zlib's fast one.
    """
    turned = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(turned.to_bytes(4, "little").translate(_REVERSED), "big")


def _read_page(file: BinaryIO, offset: int) -> _Page | None:
    file.seek(offset)
    header = file.read(PAGE_HEADER_BYTES)
    if header[:4] != b"OggS":
        return None
    num_segments = header[26] if len(header) == PAGE_HEADER_BYTES else 0
    lacing = file.read(num_segments)
    body = file.read(sum(lacing))
    is_whole = len(header) == PAGE_HEADER_BYTES and len(lacing) == num_segments
    if not is_whole or len(body) != sum(lacing):
        raise UnreadableAudioError("cut off: ends within an Ogg page")
    without_checksum = header[:22] + bytes(4) + header[26:] + lacing + body
    if ogg_checksum(without_checksum) != int.from_bytes(header[22:26], "little"):
        raise UnreadableAudioError(f"damaged: the Ogg page at byte {offset} fails its checksum")
    codec = next((name for magic, name in _CODECS.items() if body.startswith(magic)), "")
    return _Page(
        flags=header[5],
        serial=int.from_bytes(header[14:18], "little"),
        number=int.from_bytes(header[18:22], "little"),
        end=offset + len(without_checksum),
        codec=codec,
    )


def _one_codec(codecs: list[str]) -> str:
    sounds = [codec for codec in codecs if codec]
    if not sounds:
        raise UnreadableAudioError("not music: the Ogg file holds no stream of sound")
    if len(sounds) > 1:
        raise UnreadableAudioError(
            f"several streams: {len(sounds)} of sound side by side, export the one that is meant"
        )
    return sounds[0]


def _check_tail(file: BinaryIO, offset: int, *, is_over: bool) -> None:
    """Check that bytes that are no page are only a tag after the last one."""
    file.seek(offset)
    tail = file.read(MAX_TAIL_BYTES + 1)
    if not is_over or len(tail) > MAX_TAIL_BYTES or b"OggS" in tail:
        raise UnreadableAudioError(f"damaged: no Ogg page at byte {offset}")
