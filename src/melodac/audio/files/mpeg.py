"""Counting of MPEG audio frames: the samples of an MP3 or ADTS stream, without decoding it.

The length in such a file's header cannot be trusted, so its frames are walked from end to end. A
hole, a truncated frame or a change of rate is an error; the count must later be decoded.
Tables: ISO/IEC 11172-3 2.4.2.3, 13818-3 2.4.2.3 (lower rates), 13818-7 6.2 (ADTS).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from melodac.errors import UnreadableAudioError

HEADER_BYTES = 4
ADTS_HEADER_BYTES = 7
SEARCH_BYTES = 1 << 16
"""Most bytes of junk before the first frame."""
FRAMES_TO_BELIEVE = 4
"""Successive frames that confirm a find: two bytes alone look like a header by chance."""
XING_WINDOW_BYTES = 256

_LAYER_1, _LAYER_2, _LAYER_3 = 1, 2, 3
_BIT_RATES_KBPS = {
    (1, _LAYER_1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, _LAYER_2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, _LAYER_3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, _LAYER_1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, _LAYER_2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, _LAYER_3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ADTS_RATES_HZ = (
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
)  # fmt: skip
_MONO = 3


@dataclass(frozen=True)
class Frame:
    """Header of one frame."""

    size_bytes: int
    num_samples: int
    sample_rate_hz: int
    num_channels: int
    """Number of channels; 0 if the header leaves it to the frame."""


@dataclass(frozen=True)
class MpegClaim:
    """Totals over the frames of a file."""

    num_samples: int
    """Samples, without an encoder's delay and padding."""
    sample_rate_hz: int
    announced_samples: int
    """Samples announced by the Xing or Info header, counted the same way; 0 without one."""


def find_first_frame(file: BinaryIO, start: int) -> int | None:
    """Return the offset of MPEG audio at `start` or after some junk; None if there is none."""
    head = read_at(file, start, SEARCH_BYTES + HEADER_BYTES)
    offset = head.find(b"\xff")
    while 0 <= offset < SEARCH_BYTES:
        if _is_run(file, start + offset):
            return start + offset
        offset = head.find(b"\xff", offset + 1)
    return None


def is_blank(file: BinaryIO, start: int, end: int) -> bool:
    """Check if only zeros, which are padding, lie between two offsets."""
    file.seek(start)
    while start < end:
        piece = file.read(min(end - start, SEARCH_BYTES))
        if not piece or any(piece):
            return False
        start += len(piece)
    return True


def count_mpeg(file: BinaryIO, start: int) -> MpegClaim:
    """Count the samples in the frames of an MP1, MP2 or MP3.

    Args:
        file: The whole file.
        start: Offset of its first frame.

    Raises:
        UnreadableAudioError: If frames are missing or truncated, or their rate or channels change.
    """
    end = _end_of_sound(file)
    first = read_mpeg_header(read_at(file, start, HEADER_BYTES))
    head = read_at(file, start, XING_WINDOW_BYTES)
    info = _InfoHeader.read(head[: first.size_bytes] if first else b"")
    num_samples = _walk(file, (start, end), read_mpeg_header, HEADER_BYTES)
    if first is None:
        raise UnreadableAudioError("not music: holds no MPEG frame")
    if info is None:
        return MpegClaim(num_samples, first.sample_rate_hz, 0)
    per_frame, skipped = first.num_samples, info.skipped_samples
    held = max(num_samples - per_frame - skipped, 0)  # the info header is a mute first frame
    announced = max(info.num_frames * per_frame - skipped, 0) if info.num_frames else 0
    return MpegClaim(held, first.sample_rate_hz, announced)


def count_adts(file: BinaryIO, start: int) -> MpegClaim:
    """Count the samples in a raw AAC stream; errors as in `count_mpeg`."""
    first = read_adts_header(read_at(file, start, ADTS_HEADER_BYTES))
    span = (start, _end_of_sound(file))
    num_samples = _walk(file, span, read_adts_header, ADTS_HEADER_BYTES)
    if first is None:
        raise UnreadableAudioError("not music: holds no AAC frame")
    return MpegClaim(num_samples, first.sample_rate_hz, 0)


def read_mpeg_header(header: bytes) -> Frame | None:
    """Parse the header of an MPEG frame; None if it is none, or gives no length."""
    if len(header) < HEADER_BYTES or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    # the layer is stored as 4 - layer; version 3 is MPEG-1, 2 is MPEG-2, 0 is MPEG-2.5, 1 is
    # reserved
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer > _LAYER_3 or bit_rate in {0, 15} or rate == 3:
        return None
    family = 1 if version == 3 else 2
    rate_hz = _RATES_HZ[version][rate]
    bits_hz = _BIT_RATES_KBPS[family, layer][bit_rate - 1] * 1000
    num_channels = 1 if header[3] >> 6 == _MONO else 2
    if layer == _LAYER_1:
        return Frame((12 * bits_hz // rate_hz + padding) * 4, 384, rate_hz, num_channels)
    num_samples = 576 if layer == _LAYER_3 and family == 2 else 1152
    return Frame(
        num_samples // 8 * bits_hz // rate_hz + padding, num_samples, rate_hz, num_channels
    )


def read_adts_header(header: bytes) -> Frame | None:
    """Parse the header of an AAC frame; None if it is none."""
    if len(header) < ADTS_HEADER_BYTES or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return None
    rate = header[2] >> 2 & 15
    size_bytes = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if rate >= len(_ADTS_RATES_HZ) or size_bytes < ADTS_HEADER_BYTES:
        return None
    num_channels = (header[2] & 1) << 2 | header[3] >> 6
    return Frame(size_bytes, 1024 * ((header[6] & 3) + 1), _ADTS_RATES_HZ[rate], num_channels)


@dataclass(frozen=True)
class _InfoHeader:
    """Xing or Info header in a first frame (LAME tag: gabriel.mp3-tech.org/mp3infotag.html)."""

    num_frames: int
    skipped_samples: int

    @classmethod
    def read(cls, frame: bytes) -> "_InfoHeader | None":
        offset = max(frame.find(b"Xing"), frame.find(b"Info"))
        if offset < HEADER_BYTES:
            is_vbri = frame[36:40] == b"VBRI"
            return cls(int.from_bytes(frame[50:54], "big"), 0) if is_vbri else None
        flags = frame[offset + 7] if len(frame) > offset + 7 else 0
        num_frames = int.from_bytes(frame[offset + 8 : offset + 12], "big") if flags & 1 else 0
        sizes = (4, 4, 100, 4)  # frames, bytes, table of contents, quality
        encoder = offset + 8 + sum(size for bit, size in enumerate(sizes) if flags >> bit & 1)
        # encoder delay and padding in samples, 12 bits each
        gap = int.from_bytes(frame[encoder + 21 : encoder + 24], "big")
        is_told = frame[encoder : encoder + 4] in {b"LAME", b"Lavf", b"Lavc"}
        return cls(num_frames, (gap >> 12) + (gap & 0xFFF) if is_told else 0)


def _walk(
    file: BinaryIO,
    span: tuple[int, int],
    read_header: Callable[[bytes], Frame | None],
    header_bytes: int,
) -> int:
    """Return the number of samples in the frames from one offset to another."""
    offset, end = span
    first: Frame | None = None
    num_samples = 0
    while offset < end:
        header = read_at(file, offset, header_bytes)
        frame = read_header(header)
        at_s = num_samples / first.sample_rate_hz if first else 0.0
        if frame is None:
            if is_blank(file, offset, end):
                break
            raise UnreadableAudioError(f"damaged: no whole frame follows at {at_s:.1f} s")
        first = first or frame
        _check_same(first, frame, at_s)
        if offset + frame.size_bytes > end:
            raise UnreadableAudioError(f"cut off: ends within a frame at {at_s:.1f} s")
        offset += frame.size_bytes
        num_samples += frame.num_samples
    return num_samples


def _check_same(first: Frame, frame: Frame, at_s: float) -> None:
    if frame.sample_rate_hz != first.sample_rate_hz:
        raise UnreadableAudioError(
            f"changes midway: sample rate goes from {first.sample_rate_hz} to "
            f"{frame.sample_rate_hz} Hz at {at_s:.1f} s"
        )
    if frame.num_channels != first.num_channels:
        raise UnreadableAudioError(
            f"changes midway: goes from {first.num_channels} to {frame.num_channels} channels "
            f"at {at_s:.1f} s"
        )


def _is_run(file: BinaryIO, offset: int) -> bool:
    size_bytes = file.seek(0, os.SEEK_END)
    for count in range(FRAMES_TO_BELIEVE):
        if offset >= size_bytes:
            return count > (offset > size_bytes)  # a file of a single frame counts too
        frame = read_mpeg_header(read_at(file, offset, HEADER_BYTES))
        if frame is None:
            return count > 0 and read_at(file, offset, 3) in {b"TAG", b"ID3", b"APE"}
        offset += frame.size_bytes
    return True


def _end_of_sound(file: BinaryIO) -> int:
    """Return the offset of the tags at the end: ID3v1, APEv2 and Lyrics3, in any order."""
    end = file.seek(0, os.SEEK_END)
    while True:
        before = end
        if end >= 128 and read_at(file, end - 128, 3) == b"TAG":
            end -= 128
        tail = read_at(file, max(end - 32, 0), min(end, 32))
        if tail[:8] == b"APETAGEX":
            has_header = tail[23] & 0x80
            end -= int.from_bytes(tail[12:16], "little") + (32 if has_header else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= int(tail[-15:-9]) + 15
        if end == before or end <= 0:
            return max(end, 0)


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Read up to `size` bytes from an offset, which in a damaged header may be anything."""
    file.seek(min(offset, (1 << 63) - 1))
    return file.read(size)
