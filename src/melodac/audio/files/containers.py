"""Containers of sized chunks: their announced sizes compared with the file.

Decoders silently shorten a truncated file; its chunks reveal it. Streaming writers leave the size
of the audio open (0, or the largest number); then everything the file holds counts.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from melodac.audio.files.formats import AIFF, ASF, AU, CAF, MATROSKA, MP4, W64, WAV, Format
from melodac.audio.files.mpeg import read_at
from melodac.errors import UnreadableAudioError

OPEN_SIZES = (range(0x7FFF_F000, 0x8000_0001), range(0xFFFF_F000, 0x1_0000_0000))
"""Sizes that streaming writers (SoX, FFmpeg, arecord) write while the real one is unknown."""
UNKNOWN_SIZE = (1 << 64) - 1
MAX_CHUNKS = 100_000
STRAY_BYTES = 1 << 12
"""Most bytes after the last chunk that are padding or a foreign tag; more is uncounted audio."""
_PLAIN_COMM_BYTES = 18


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    """Offset of the content."""
    size: int


@dataclass(frozen=True)
class _Layout:
    first: int
    name_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    align: int = 2
    counts_itself: bool = False
    """True if a size includes its own header."""


_LAYOUTS = {
    WAV: _Layout(12, 4, 4, "little"),
    AIFF: _Layout(12, 4, 4, "big"),
    CAF: _Layout(8, 4, 8, "big", align=1),
    W64: _Layout(40, 16, 8, "little", align=8, counts_itself=True),
}
_ASF_LAYOUT = _Layout(0, 16, 8, "little", align=1, counts_itself=True)
_SOUND = {WAV: b"data", AIFF: b"SSND", CAF: b"data", W64: b"data"}


def check_whole(file: BinaryIO, known: Format, start: int) -> bool:
    """Check that a file holds what its chunks announce.

    Missing audio, or more than announced, raises `UnreadableAudioError`.

    Args:
        file: The whole file.
        known: Its format; formats without chunks are not checked.
        start: Offset where it begins.

    Returns:
        True if its header gives no length and everything up to the end counts.
    """
    end = file.seek(0, os.SEEK_END)
    if known == MP4:
        _check_boxes(file, start, end)
    elif known == ASF:
        _check_objects(file, start, end)
    elif known == MATROSKA:
        _check_segment(file, start, end)
    elif known == AU:
        size = int.from_bytes(read_at(file, start + 8, 4), "big")
        offset = int.from_bytes(read_at(file, start + 4, 4), "big")
        if size not in OPEN_SIZES[1]:
            _check_size(size, end - start - offset)
    elif known in _LAYOUTS:
        return _check_chunks(file, known, start, end)
    return False


def _check_chunks(file: BinaryIO, known: Format, start: int, end: int) -> bool:
    long_size = _long_size(file, start) if known == WAV else 0
    layout = _LAYOUTS[known]
    announced_frames_bytes = 0
    for chunk in _walk(file, layout, start, end):
        if chunk.name == b"COMM":
            announced_frames_bytes = _count_comm(file, chunk)
        if chunk.name[:4] != _SOUND[known]:
            continue
        held = end - chunk.start
        size = long_size if long_size and chunk.size == 0xFFFF_FFFF else chunk.size
        if size == 0 and known == WAV:
            return held > 0 and not _is_chunk(file, layout, chunk.start, end)
        if _is_open(known, size, is_long=bool(long_size)):
            return False
        _check_size(max(size, announced_frames_bytes), held)
        _check_rest(file, layout, chunk.start + size, end)
        return False
    raise UnreadableAudioError("cut off: ends before the sound begins")


def _count_comm(file: BinaryIO, chunk: _Chunk) -> int:
    """Return the bytes of audio that an AIFF's COMM chunk announces; 0 for AIFF-C, maybe packed."""
    if chunk.size != _PLAIN_COMM_BYTES:
        return 0
    fields = read_at(file, chunk.start, 8)
    channels, frames, bits = (int.from_bytes(fields[a:b]) for a, b in ((0, 2), (2, 6), (6, 8)))
    return frames * channels * -(-bits // 8)


def _is_open(known: Format, size: int, *, is_long: bool) -> bool:
    if known == WAV and not is_long:
        return any(size in sizes for sizes in OPEN_SIZES)
    return known == CAF and size == UNKNOWN_SIZE


def _check_size(announced: int, held: int) -> None:
    if announced > held:
        share = 100 * max(held, 0) / announced
        raise UnreadableAudioError(
            f"cut off: its header announces {announced} bytes of sound, {max(held, 0)} are there "
            f"({share:.3g} %)"
        )


def _check_rest(file: BinaryIO, layout: _Layout, offset: int, end: int) -> None:
    """Check that after the audio come chunks; a long rest that is none is uncounted audio."""
    rest = end - offset
    if rest <= STRAY_BYTES or layout.name_bytes != 4:
        return
    if not any(_is_chunk(file, layout, offset + pad, end) for pad in (0, 1)):
        raise UnreadableAudioError(
            f"header lies: {rest} bytes follow the sound that it announces, export it anew"
        )


def _is_chunk(file: BinaryIO, layout: _Layout, offset: int, end: int) -> bool:
    header = read_at(file, offset, 4 + layout.size_bytes)
    size = int.from_bytes(header[4:], layout.order)
    is_name = len(header) == 4 + layout.size_bytes and all(0x20 <= c < 0x7F for c in header[:4])
    return is_name and offset + len(header) + size <= end


def _long_size(file: BinaryIO, start: int) -> int:
    """Return the audio size in the ds64 chunk of RF64 and BW64 (EBU Tech 3306); 0 without one."""
    head = read_at(file, start, 36)
    return int.from_bytes(head[28:36], "little") if head[12:16] == b"ds64" else 0


def _walk(file: BinaryIO, layout: _Layout, start: int, end: int) -> Iterator[_Chunk]:
    offset = start + layout.first
    header_bytes = layout.name_bytes + layout.size_bytes
    for _ in range(MAX_CHUNKS):
        header = read_at(file, offset, header_bytes)
        if len(header) < header_bytes:
            return
        size = int.from_bytes(header[layout.name_bytes :], layout.order)
        if layout.counts_itself:
            size = max(size - header_bytes, 0)
        chunk = _Chunk(header[: layout.name_bytes], offset + header_bytes, size)
        yield chunk
        offset = chunk.start + -(-size // layout.align) * layout.align
        if offset >= end:
            return


def _check_boxes(file: BinaryIO, start: int, end: int) -> None:
    """Check that the boxes of an MP4 tile the file (ISO/IEC 14496-12); size 0 is up to the end."""
    offset, name = start, b""
    indexed_end: int | None = None
    is_fragmented = False
    for _ in range(MAX_CHUNKS):
        header = read_at(file, offset, 16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size == 0 or offset >= end:
            break
        _check_size(size, end - offset)
        name = header[4:8]
        offset += max(size, 8)
        is_fragmented = is_fragmented or name == b"moof"
        if name == b"sidx" and indexed_end is None:
            indexed_end = offset + _indexed_bytes(read_at(file, offset - size, size))
    if is_fragmented and name != b"mfra":
        if indexed_end is None:
            raise UnreadableAudioError(
                "no index: a fragmented MP4 cannot tell whether it is whole, export it anew"
            )
        _check_size(indexed_end - start, end - start)


def _indexed_bytes(box: bytes) -> int:
    """Return the bytes of the fragments that a segment index lists, ISO/IEC 14496-12 8.16.3."""
    is_long = box[8:9] != b"\0"
    fields = 12 + 8 + (16 if is_long else 8)  # up to the count of references
    first_offset = int.from_bytes(box[fields - (8 if is_long else 4) : fields])
    references = box[fields + 4 :]
    # 12 bytes per reference, the size in the lower 31 bits of the first four
    sizes = (references[at : at + 4] for at in range(0, len(references) - 11, 12))
    return first_offset + sum(int.from_bytes(size) & 0x7FFF_FFFF for size in sizes)


def _check_objects(file: BinaryIO, start: int, end: int) -> None:
    """Check the objects of an ASF (specification, section 2), as FFmpeg silently shortens them."""
    for number, chunk in enumerate(_walk(file, _ASF_LAYOUT, start, end)):
        if number == 1 and chunk.size == 0:
            raise UnreadableAudioError("no length: the recording was never closed, export it anew")
        _check_size(chunk.size, end - chunk.start)


def _check_segment(file: BinaryIO, start: int, end: int) -> None:
    """Check the segment of an EBML file (RFC 8794); its size is known unless it was streamed."""
    offset, header_size = _read_element(file, start)
    offset, size = _read_element(file, offset + header_size)
    if size != UNKNOWN_SIZE:
        _check_size(size, end - offset)


def _read_element(file: BinaryIO, offset: int) -> tuple[int, int]:
    """Return the offset and the size of an element's content.

    Id and size have variable length: the first one bit of a field gives its length, and a size of
    all ones is unknown.
    """
    head = read_at(file, offset, 12)
    id_bytes = 9 - head[0].bit_length() if head else 0
    field = head[id_bytes : id_bytes + 8]
    size_bytes = 9 - field[0].bit_length() if field else 0
    if not field or not field[0] or len(field) < size_bytes:
        raise UnreadableAudioError("cut off: ends before the sound begins")
    size = int.from_bytes(field[:size_bytes]) & ((1 << 7 * size_bytes) - 1)
    is_open = size == (1 << 7 * size_bytes) - 1
    return offset + id_bytes + size_bytes, UNKNOWN_SIZE if is_open else size
