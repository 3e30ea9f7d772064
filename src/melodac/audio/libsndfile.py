"""Decoding through libsndfile: WAV, AIFF, CAF, AU, FLAC, Ogg Vorbis and Opus, MP3.

Tracks are read with it here alone; `read.py` is the front door. FLAC is compared with the checksum
of its own sound, a chain of Ogg streams is read link after link.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32, Int32, UInt8

from melodac.audio.ogg import Link
from melodac.audio.section import open_section
from melodac.errors import UnreadableAudioError

UNKNOWN_LENGTH_FRAMES = 1 << 62
"""From here on libsndfile means that a streamed header gives no length."""
MALLOC_FAILED = 17
"""SFE_MALLOC_FAILED of libsndfile 1.2.2, src/common.h."""


class LibsndfileDecoder:
    """One stream of sound, read once from front to end."""

    def __init__(self, source: int | BinaryIO, flac_md5: bytes = b"") -> None:
        """Open a stream; one that libsndfile does not know is an `UnreadableAudioError`.

        Args:
            source: A file that begins with the stream; as a descriptor it is read faster.
            flac_md5: What STREAMINFO says its samples hash to; empty to compare nothing.
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
        """The next samples, none at the end.

        Raises:
            UnreadableAudioError: If decoding fails, or what was decoded is not what was encoded.
        """
        try:
            block = self._read(max_samples)
        except soundfile.LibsndfileError as error:
            raise _translate(error, "damaged: decoding stops with an error") from error
        if not len(block) and self._flac_md5 and self._hash.digest() != self._flac_md5:
            raise UnreadableAudioError("damaged: what is decoded differs from the FLAC's checksum")
        return np.ascontiguousarray(block.T)

    def close(self) -> None:
        """Let go of libsndfile's memory."""
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
    """Ogg streams one after the other, as one."""

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
        """The next samples; errors as in `LibsndfileDecoder`, and if the streams differ in kind."""
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
        """Let go of libsndfile's memory."""
        self._now.close()

    def _open_next(self) -> LibsndfileDecoder:
        link = self._links.pop(0)
        return LibsndfileDecoder(open_section(self._file, link.start, link.end))


def read_flac_md5(file: BinaryIO, start: int) -> bytes | None:
    """The checksum of a FLAC's sound; None if it has none, or is one libsndfile cannot read.

    That is one with no count of samples, or with samples of unusual size.

    STREAMINFO: RFC 9639, section 8.2.
    """
    file.seek(start)
    head = file.read(42)
    bits = ((head[20] & 1) << 4 | head[21] >> 4) + 1 if len(head) == 42 else 0
    num_samples = (head[21] & 0x0F) << 32 | int.from_bytes(head[22:26]) if bits else 0
    md5 = head[26:42]
    return md5 if bits in {8, 16, 24} and num_samples and any(md5) else None


def _pack(samples: Int32[np.ndarray, "N C"], num_bytes: int) -> UInt8[np.ndarray, "_ _"]:
    """The upper bytes of each sample, as FLAC hashes them; column by column is ten times faster."""
    whole = samples.astype("<i4", copy=False).view(np.uint8).reshape(-1, 4)
    packed = np.empty((samples.size, num_bytes), np.uint8)
    for column in range(num_bytes):
        packed[:, column] = whole[:, column + 4 - num_bytes]
    return packed


def _translate(error: soundfile.LibsndfileError, what: str) -> UnreadableAudioError:
    if error.code == MALLOC_FAILED:
        raise MemoryError(error.error_string) from error
    return UnreadableAudioError(f"{what} ({error.error_string.strip().rstrip('.')})")
