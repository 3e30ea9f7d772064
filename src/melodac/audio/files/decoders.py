"""The two decoders behind `read.py`: libsndfile, and FFmpeg as bundled with PyAV.

libsndfile decodes WAV, AIFF, CAF, AU, FLAC, Ogg Vorbis and Opus, and MP3; FLAC is compared with its
own checksum, a chain of Ogg streams is read link after link. FFmpeg decodes M4A, AAC, ALAC, WMA,
WavPack and others. It gets an open file and the name of its container, so it never guesses a
format, opens a second file or reaches a network. Only this module imports `av`.
"""

import hashlib
import io
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from jaxtyping import Float32, Int32, UInt8

from melodac.audio.files.formats import MP4, Format
from melodac.audio.files.ogg import Link
from melodac.errors import UnreadableAudioError


def open_section(file: BinaryIO, start: int, end: int) -> BinaryIO:
    """Open the bytes from one offset to another as a file with its own position."""
    return io.BufferedReader(_Section(file, start, end), buffer_size=1 << 16)


class _Section(io.RawIOBase):
    mode = "rb"

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        super().__init__()
        self._file, self._start, self._end = file, start, end
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  Buffer is of 3.12
        offset = self._start + self._position
        count = max(min(len(buffer), self._end - offset), 0)
        self._file.seek(offset)
        piece = self._file.read(count)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {
            os.SEEK_SET: 0,
            os.SEEK_CUR: self._position,
            os.SEEK_END: self._end - self._start,
        }[whence]
        if base + offset < 0:
            raise OSError("cannot seek before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


UNKNOWN_LENGTH_FRAMES = 1 << 62
"""Length from which libsndfile means that a streamed header gives none."""
MALLOC_FAILED = 17
"""Error code for a lack of memory: SFE_MALLOC_FAILED of libsndfile 1.2.2, src/common.h."""


class LibsndfileDecoder:
    """Decoder of one stream through libsndfile, read once from front to end."""

    def __init__(self, source: int | BinaryIO, flac_md5: bytes = b"") -> None:
        """Open a stream; one that libsndfile does not know raises `UnreadableAudioError`.

        Args:
            source: File that begins with the stream; a descriptor is read faster.
            flac_md5: Hash of the samples in STREAMINFO; empty to skip the comparison.
        """
        if isinstance(source, int):
            os.lseek(source, 0, os.SEEK_SET)
        try:
            self._file = soundfile.SoundFile(source, closefd=False)
        except soundfile.LibsndfileError as error:
            raise _translate(error, "not music: cannot be decoded") from error
        self.sample_rate_hz = int(self._file.samplerate)
        self.num_channels = int(self._file.channels)
        frames = int(self._file.frames)
        self.announced_samples = 0 if frames >= UNKNOWN_LENGTH_FRAMES else frames
        self.codec = str(self._file.subtype)
        self._flac_md5 = flac_md5
        self._hash = hashlib.md5(usedforsecurity=False)

    def read(self, max_samples: int) -> Float32[np.ndarray, "C N"]:
        """Read the next samples; none at the end.

        Raises:
            UnreadableAudioError: If decoding fails, or the samples do not match the checksum.
        """
        try:
            block = self._read(max_samples)
        except soundfile.LibsndfileError as error:
            raise _translate(error, "damaged: decoding stops with an error") from error
        if not len(block) and self._flac_md5 and self._hash.digest() != self._flac_md5:
            raise UnreadableAudioError("damaged: what is decoded differs from the FLAC's checksum")
        return np.ascontiguousarray(block.T)

    def close(self) -> None:
        """Free libsndfile's memory."""
        self._file.close()

    def _read(self, max_samples: int) -> Float32[np.ndarray, "N C"]:
        if not self._flac_md5:
            return self._file.read(max_samples, dtype="float32", always_2d=True)
        if self.codec == "PCM_16":
            short = self._file.read(max_samples, dtype="int16", always_2d=True)
            self._hash.update(short.astype("<i2", copy=False).tobytes())
            return np.multiply(short, np.float32(1.0 / (1 << 15)), dtype=np.float32)
        exact: Int32[np.ndarray, "N C"]
        exact = self._file.read(max_samples, dtype="int32", always_2d=True)
        self._hash.update(_pack(exact, 3 if self.codec == "PCM_24" else 1).tobytes())
        return np.multiply(exact, np.float32(1.0 / (1 << 31)), dtype=np.float32, casting="unsafe")


class ChainDecoder:
    """Decoder of chained Ogg streams, read as one."""

    def __init__(self, file: BinaryIO, links: Sequence[Link]) -> None:
        """Open the first stream; errors as in `LibsndfileDecoder`."""
        self._file = file
        self._links = list(links)
        self._now = self._open_next()
        self.sample_rate_hz = self._now.sample_rate_hz
        self.num_channels = self._now.num_channels
        self.codec = self._now.codec
        self.announced_samples = 0 if self._links else self._now.announced_samples
        self._left = self._now.announced_samples

    def read(self, max_samples: int) -> Float32[np.ndarray, "C N"]:
        """Read the next samples; also raises if the streams differ in kind."""
        block = self._now.read(max_samples)
        self._left -= block.shape[1]
        if block.shape[1] or not self._links:
            return block
        if self._left > 0:
            raise UnreadableAudioError(f"damaged: {self._left} samples are missing within a chain")
        self._now.close()
        self._now = self._open_next()
        self._left = self._now.announced_samples
        if (self._now.sample_rate_hz, self._now.num_channels) != (
            self.sample_rate_hz,
            self.num_channels,
        ):
            raise UnreadableAudioError(
                f"changes midway: an Ogg chain of {self.sample_rate_hz} Hz, {self.num_channels} "
                f"channels and {self._now.sample_rate_hz} Hz, {self._now.num_channels} channels"
            )
        return self.read(max_samples)

    def close(self) -> None:
        """Free libsndfile's memory."""
        self._now.close()

    def _open_next(self) -> LibsndfileDecoder:
        link = self._links.pop(0)
        return LibsndfileDecoder(open_section(self._file, link.start, link.end))


def read_flac_md5(file: BinaryIO, start: int) -> bytes | None:
    """Return the checksum of a FLAC's samples; None without one that libsndfile can verify.

    It cannot if the header gives no number of samples or an unusual sample size.

    Source:
        STREAMINFO: RFC 9639, section 8.2.
    """
    file.seek(start)
    head = file.read(42)
    bits = ((head[20] & 1) << 4 | head[21] >> 4) + 1 if len(head) == 42 else 0
    num_samples = (head[21] & 0x0F) << 32 | int.from_bytes(head[22:26]) if bits else 0
    md5 = head[26:42]
    return md5 if bits in {8, 16, 24} and num_samples and any(md5) else None


def _pack(samples: Int32[np.ndarray, "N C"], num_bytes: int) -> UInt8[np.ndarray, "_ _"]:
    """Return the upper bytes of each sample, as FLAC hashes them; by column, ten times faster."""
    whole = samples.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)
    packed = np.empty((samples.size, num_bytes), np.uint8)
    for column in range(num_bytes):
        packed[:, column] = whole[:, column + 4 - num_bytes]
    return packed


def _translate(error: soundfile.LibsndfileError, what: str) -> UnreadableAudioError:
    if error.code == MALLOC_FAILED:
        raise MemoryError(error.error_string) from error
    return UnreadableAudioError(f"{what} ({error.error_string.strip().rstrip('.')})")


BUFFER_BYTES = 1 << 18
CHECKED_CODECS = frozenset({"alac", "ape", "flac", "tak", "tta", "wavpack"})
"""Codecs whose frames carry checksums, which FFmpeg is told to verify; others check themselves."""
PADDING_SAMPLES = 4096
"""Largest difference by which an MP4's announced end cuts off an encoder's padding."""
_FULL_SCALE = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "s64": 1 << 63}


class FfmpegDecoder:
    """Decoder of a file's single audio stream through FFmpeg, read once from front to end."""

    def __init__(self, file: BinaryIO, known: Format, *, ends_anywhere: bool = False) -> None:
        """Open a file and decode its first frame, which alone tells the true rate and channels.

        Args:
            file: File that begins with its container.
            known: Its format.
            ends_anywhere: True if its header leaves the length open, so that no end is too early.

        Raises:
            UnreadableAudioError: If FFmpeg cannot decode it, or it has not exactly one stream.
        """
        with _plain_words("not music: cannot be decoded"):
            self._container = _open(file, known)
            self._stream = _only_stream(self._container)
        self.codec = self._stream.codec_context.name
        self._trims_end = known == MP4
        self._ends_anywhere = ends_anywhere
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise UnreadableAudioError("empty: holds no sample")
        self._kind = _kind(first)
        self.sample_rate_hz, self.num_channels, _ = self._kind
        self.announced_samples = round(_announced_s(self._container, known) * self.sample_rate_hz)
        self._waiting = [_to_float(first)]
        self._num_samples = 0

    def read(self, max_samples: int) -> Float32[np.ndarray, "C N"]:
        """Read the next samples, about `max_samples`; none at the end.

        Raises `UnreadableAudioError` if decoding fails, or the rate or channels change.
        """
        count = sum(part.shape[1] for part in self._waiting)
        while count < max_samples and (frame := next(self._frames, None)) is not None:
            self._check_kind(frame)
            self._waiting.append(_to_float(frame))
            count += frame.samples
        parts, self._waiting = self._waiting, []
        if not parts:
            return np.zeros((self.num_channels, 0), np.float32)
        block = self._without_padding(np.concatenate(parts, axis=1))
        self._num_samples += block.shape[1]
        return block

    def close(self) -> None:
        """Free FFmpeg's memory."""
        self._container.close()

    def _decode(self) -> Iterator[AudioFrame]:
        with _plain_words("damaged: decoding stops with an error"):
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and not self._ends_anywhere:
                    raise UnreadableAudioError("cut off: ends within a packet")
                # its own stubs leave Packet's parameter open
                yield from self._stream.codec_context.decode(packet)  # pyright: ignore[reportUnknownMemberType]

    def _check_kind(self, frame: AudioFrame) -> None:
        if _kind(frame) != self._kind:
            before = f"{self.sample_rate_hz} Hz, {self.num_channels} channels"
            rate_hz, channels, _ = _kind(frame)
            raise UnreadableAudioError(
                f"changes midway: goes from {before} to {rate_hz} Hz, {channels} channels"
            )

    def _without_padding(self, block: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, "C _"]:
        """Cut the padding off the last frame, where an MP4 tells the end of the audio."""
        surplus = self._num_samples + block.shape[1] - self.announced_samples
        is_last = self._trims_end and self.announced_samples and 0 < surplus < PADDING_SAMPLES
        if not is_last:
            return block
        following = next(self._frames, None)
        if following is not None:
            self._check_kind(following)
            self._waiting.append(_to_float(following))
            return block
        return block[:, : max(block.shape[1] - surplus, 0)]


def _open(file: BinaryIO, known: Format) -> InputContainer:
    return av.open(
        file,
        "r",
        format=known.demuxer,
        buffer_size=BUFFER_BYTES,
        metadata_errors="replace",
        # no other file or address may be opened, whatever a container refers to
        container_options={"protocol_whitelist": "none", "format_whitelist": known.demuxer},
    )


def _only_stream(container: InputContainer) -> AudioStream:
    streams = container.streams.audio
    if len(streams) != 1:
        raise UnreadableAudioError(
            f"several streams: {len(streams)} of sound side by side, export the one that is meant"
            if streams
            else "not music: holds no stream of sound"
        )
    stream = streams[0]
    if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison]  the stubs forget
        raise UnreadableAudioError("not music: its codec is unknown, export it as WAV or FLAC")
    stream.codec_context.thread_count = 1  # the worker processes are the parallelism
    codec = stream.codec_context.name
    options = {"err_detect": "crccheck+explode"} if codec in CHECKED_CODECS else {}
    if codec == "alac":
        # a last frame is short already; FFmpeg would remove the padding that a CAF names once more
        options["flags2"] = "+skip_manual"
    stream.codec_context.options = options
    return stream


def _announced_s(container: InputContainer, known: Format) -> float:
    """Return the seconds that a header announces; 0 where FFmpeg would only guess."""
    stream = container.streams.audio[0]
    if not known.is_length_exact:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else 0.0


def _kind(frame: AudioFrame) -> tuple[int, int, str]:
    return frame.sample_rate, frame.layout.nb_channels, frame.format.name


def _to_float(frame: AudioFrame) -> Float32[np.ndarray, "C N"]:
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    planes = values if frame.format.is_planar else values.reshape(-1, channels).T
    name = frame.format.packed.name
    if values.dtype.kind == "f":
        return np.ascontiguousarray(planes, np.float32)
    centred = planes.astype(np.float32)
    if name == "u8":
        centred -= _FULL_SCALE[name]
    return np.ascontiguousarray(centred / np.float32(_FULL_SCALE[name]))


@contextmanager
def _plain_words(what: str) -> Generator[None]:
    """Translate FFmpeg's errors; a lack of memory passes, for the worker processes to report."""
    try:
        yield
    except MemoryError:
        raise
    except (FFmpegError, ValueError, LookupError, EOFError) as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableAudioError(f"{what} ({_first_line(message)})") from error


def _first_line(message: str) -> str:
    return message.splitlines()[0].rstrip(".") if message else ""
