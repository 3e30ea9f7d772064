"""Decoding through FFmpeg, which the wheels of PyAV bring: M4A, AAC, ALAC, WMA, WavPack and others.

The only module that imports `av`; `read.py` is the front door. FFmpeg gets an open file and the
name of its container: it never guesses a format, opens a second file or reaches a network.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from jaxtyping import Float32

from melodac.audio.formats import MP4, Format
from melodac.errors import UnreadableAudioError

BUFFER_BYTES = 1 << 18
CHECKED_CODECS = frozenset({"alac", "ape", "flac", "tak", "tta", "wavpack"})
"""Their frames carry checksums, which are asked for; the others' decoders judge for themselves."""
PADDING_SAMPLES = 4096
"""An MP4 that says it is shorter by less than this ends in an encoder's padding."""
_FULL_SCALE = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "s64": 1 << 63}


class FfmpegDecoder:
    """The one stream of sound in a file, read once from front to end."""

    def __init__(self, file: BinaryIO, known: Format, *, ends_anywhere: bool = False) -> None:
        """Open a file and decode its first frame, which alone tells the true rate and channels.

        Args:
            file: A file that begins with its container.
            known: What it is.
            ends_anywhere: Whether its header leaves the length open, so that no end is too early.

        Raises:
            UnreadableAudioError: If FFmpeg cannot decode it, or not exactly one stream is sound.
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
        """The next samples, about so many, none at the end.

        If decoding fails, or the rate or channels change, that is an `UnreadableAudioError`.
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
        """Let go of FFmpeg's memory."""
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
        """A last frame is filled up; an MP4 says where the sound in it ends."""
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
        # nothing else is ever opened, whatever a container refers to
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
    stream.codec_context.thread_count = 1  # workers are the parallelism
    codec = stream.codec_context.name
    options = {"err_detect": "crccheck+explode"} if codec in CHECKED_CODECS else {}
    if codec == "alac":
        # a last frame is short already; FFmpeg would cut what a CAF calls its padding once more
        options["flags2"] = "+skip_manual"
    stream.codec_context.options = options
    return stream


def _announced_s(container: InputContainer, known: Format) -> float:
    """Seconds that a header tells; 0 where FFmpeg would only guess."""
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
    """FFmpeg's errors as ours; want of memory stays what it is, for the workers to tell."""
    try:
        yield
    except MemoryError:
        raise
    except (FFmpegError, ValueError, LookupError, EOFError) as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableAudioError(f"{what} ({_first_line(message)})") from error


def _first_line(message: str) -> str:
    return message.splitlines()[0].rstrip(".") if message else ""
