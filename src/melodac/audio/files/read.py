"""Reading of audio files: block by block, capped on decoded seconds, never silently incomplete.

Headers are not trusted. The format is recognised from the bytes, the length is counted before
decoding where the format allows, and the decoded samples must match it.
"""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from melodac.audio.files.containers import check_whole
from melodac.audio.files.decoders import (
    ChainDecoder,
    FfmpegDecoder,
    LibsndfileDecoder,
    open_section,
    read_flac_md5,
)
from melodac.audio.files.formats import AAC, CAF, FLAC, MP3, OGG, Format, Recognised, recognise
from melodac.audio.files.mpeg import count_adts, count_mpeg
from melodac.audio.files.ogg import find_links
from melodac.errors import AudioTooLongError, UnreadableAudioError

BLOCK_VALUES = 1 << 20
"""Samples of all channels decoded at once: 4 MiB."""
MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64


@dataclass(frozen=True)
class AudioInfo:
    """Content of a header; the duration is a claim until decoded."""

    sample_rate_hz: int
    num_channels: int
    announced_samples: int
    """Samples per channel; 0 if the header does not say."""
    container: str
    """Container: WAV, FLAC, OGG, MP3, MP4, ..."""
    decoder: str
    """Decoder: libsndfile or FFmpeg."""
    codec: str
    """Decoder's name of the sample format: PCM_16, VORBIS, aac, ..."""


Decoder = LibsndfileDecoder | ChainDecoder | FfmpegDecoder


class AudioFile:
    """Open audio file: its header and, once, its samples. Made by `open_audio`."""

    def __init__(self, path: Path, opened: "_Opened") -> None:
        self._path = path
        self._decoder = opened.decoder
        self._counted = opened.counted_samples
        self._tolerance_s = opened.tolerance_s
        self.info = opened.info

    def blocks(self, max_duration_s: float) -> Iterator[Float32[np.ndarray, "C N"]]:
        """Yield every sample of the file, in blocks of bounded size.

        Args:
            max_duration_s: Cap on decoded seconds.

        Raises:
            UnreadableAudioError: If decoding fails, a sample is not finite, or the file is empty or
                holds less than its header or its frames announce.
            AudioTooLongError: If more seconds are decoded than allowed.
        """
        rate_hz = self.info.sample_rate_hz
        max_samples = int(max_duration_s * rate_hz)
        block_samples = max(1, BLOCK_VALUES // self.info.num_channels)
        num_samples = 0
        while True:
            with _naming(self._path):
                block = self._decoder.read(block_samples)
                if not block.shape[1]:
                    break
                num_samples += block.shape[1]
                if num_samples > max_samples:
                    raise AudioTooLongError(f"too long: more than {max_duration_s:g} s of music")
                if not np.isfinite(block).all():
                    at_s = (num_samples - block.shape[1]) / rate_hz
                    raise UnreadableAudioError(
                        f"non-finite: holds NaN or infinity from about {at_s:.0f} s on"
                    )
            yield block
        with _naming(self._path):
            self._check_end(num_samples)

    def _check_end(self, num_samples: int) -> None:
        if num_samples == 0:
            raise UnreadableAudioError("empty: holds no sample")
        rate_hz = self.info.sample_rate_hz
        decoded_s = num_samples / rate_hz
        announced_s = self.info.announced_samples / rate_hz
        if announced_s - decoded_s > self._tolerance_s:
            raise UnreadableAudioError(
                f"cut off: {decoded_s:.2f} s could be decoded, "
                f"its header announces {announced_s:.2f} s"
            )
        if num_samples < self._counted:
            raise UnreadableAudioError(
                f"damaged: {decoded_s:.2f} s could be decoded, "
                f"its frames hold {self._counted / rate_hz:.2f} s"
            )


@contextmanager
def open_audio(path: Path) -> Generator[AudioFile]:
    """Open an audio file; only regular files are ever opened for reading.

    Anything else, and content that no decoder knows, raises `UnreadableAudioError`.
    """
    descriptor = _open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        with _naming(path):
            opened = _open_decoder(file)
        try:
            with _naming(path):
                _check_info(opened.info)
            yield AudioFile(path, opened)
        finally:
            opened.decoder.close()


def read_audio(path: Path, max_duration_s: float) -> tuple[Float32[np.ndarray, "C N"], int]:
    """Read all samples of a file; return them with the sample rate in Hz.

    Raises as `AudioFile.blocks` does.

    Args:
        path: Any file that can be decoded.
        max_duration_s: Cap on decoded seconds, whatever the header claims.
    """
    with open_audio(path) as file:
        blocks = list(file.blocks(max_duration_s))
        return np.concatenate(blocks, axis=1), file.info.sample_rate_hz


@dataclass(frozen=True)
class _Opened:
    decoder: Decoder
    info: AudioInfo
    counted_samples: int
    """Least samples to decode, at the decoder's rate; 0 if they were not counted."""
    tolerance_s: float
    """Seconds that may be missing compared with the header."""


def _open_regular(path: Path) -> int:
    try:
        # non-blocking, since opening a FIFO would wait for a writer that never comes
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "its name holds a NUL"
        raise UnreadableAudioError(f"{path}: cannot be opened: {what}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableAudioError(f"{path}: not a regular file")
    return descriptor


def _open_decoder(file: BinaryIO) -> _Opened:
    if os.fstat(file.fileno()).st_size == 0:
        raise UnreadableAudioError("empty: the file has 0 bytes")
    found = recognise(file)
    length_is_open = check_whole(file, found.format, found.start)
    if found.format == OGG:
        return _open_ogg(file, found)
    if found.format == MP3:
        return _open_mp3(file, found)
    if found.format == AAC:
        claim = count_adts(file, found.start)
        decoder = _ffmpeg(file, found)
        # the decoder's rate may be twice that of the frames (spectral band replication)
        counted = claim.num_samples * decoder.sample_rate_hz // claim.sample_rate_hz
        return _opened(decoder, AAC, counted)
    if found.format == FLAC:
        md5 = read_flac_md5(file, found.start)
        # a FLAC without checksum goes to FFmpeg, which reads past the header's number of samples
        return _opened(_ffmpeg(file, found) if md5 is None else _libsndfile(file, found, md5), FLAC)
    if found.format.backend == "FFmpeg" or length_is_open or _is_packed_caf(file, found):
        return _opened(_ffmpeg(file, found, ends_anywhere=length_is_open), found.format)
    return _opened(_libsndfile(file, found), found.format)


def _open_ogg(file: BinaryIO, found: Recognised) -> _Opened:
    links = find_links(file)
    if not {link.codec for link in links} <= {"vorbis", "opus"}:
        return _opened(_ffmpeg(file, found), OGG)
    is_chain = len(links) > 1
    return _opened(ChainDecoder(file, links) if is_chain else _libsndfile(file, found), OGG)


def _open_mp3(file: BinaryIO, found: Recognised) -> _Opened:
    claim = count_mpeg(file, found.start)
    if claim.announced_samples > claim.num_samples:
        rate_hz = claim.sample_rate_hz
        raise UnreadableAudioError(
            f"cut off: its frames hold {claim.num_samples / rate_hz:.2f} s, "
            f"its header announces {claim.announced_samples / rate_hz:.2f} s"
        )
    decoder = _libsndfile(file, found)
    if decoder.announced_samples < claim.num_samples:
        # without a Xing header libsndfile guesses the length from the first frames and stops there
        decoder.close()
        decoder = _ffmpeg(file, found)
    return _opened(decoder, MP3, claim.num_samples)


def _ffmpeg(file: BinaryIO, found: Recognised, *, ends_anywhere: bool = False) -> FfmpegDecoder:
    end = file.seek(0, os.SEEK_END)
    section = open_section(file, found.start, end)
    return FfmpegDecoder(section, found.format, ends_anywhere=ends_anywhere)


def _libsndfile(file: BinaryIO, found: Recognised, flac_md5: bytes = b"") -> LibsndfileDecoder:
    if found.start == 0:
        return LibsndfileDecoder(file.fileno(), flac_md5)
    end = file.seek(0, os.SEEK_END)
    return LibsndfileDecoder(open_section(file, found.start, end), flac_md5)


def _is_packed_caf(file: BinaryIO, found: Recognised) -> bool:
    """Check if a CAF holds AAC, ALAC or Opus; libsndfile reads those with plain samples."""
    file.seek(found.start + 28)
    return found.format == CAF and file.read(4) not in {b"lpcm", b"ulaw", b"alaw"}


def _opened(
    decoder: FfmpegDecoder | LibsndfileDecoder | ChainDecoder, known: Format, counted: int = 0
) -> _Opened:
    info = AudioInfo(
        sample_rate_hz=decoder.sample_rate_hz,
        num_channels=decoder.num_channels,
        announced_samples=decoder.announced_samples,
        container=known.container,
        decoder="FFmpeg" if isinstance(decoder, FfmpegDecoder) else "libsndfile",
        codec=decoder.codec,
    )
    return _Opened(decoder, info, counted, known.tolerance_s)


def _check_info(info: AudioInfo) -> None:
    if not MIN_RATE_HZ <= info.sample_rate_hz <= MAX_RATE_HZ:
        raise UnreadableAudioError(
            f"sample rate: {info.sample_rate_hz} Hz, {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz can be read"
        )
    if info.num_channels > MAX_CHANNELS:
        raise UnreadableAudioError(
            f"channels: {info.num_channels}, at most {MAX_CHANNELS} can be read"
        )


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Prefix errors with the name of the file."""
    try:
        yield
    except (UnreadableAudioError, AudioTooLongError) as error:
        raise type(error)(f"{path}: {error}") from error
