"""Reading audio files: block by block, capped on decoded seconds, never a part in silence.

Headers are not believed: lengths come from decoded samples, and a file that ends before its header
says is refused. The only module that reads through libsndfile; any module above may import it.
"""

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]  it has none
from jaxtyping import Float32

from melodac.errors import AudioTooLongError, UnreadableAudioError

BLOCK_VALUES = 1 << 20
"""Samples of all channels decoded at once, 4 MiB."""
MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 768_000
ANNOUNCED_TOLERANCE_S = 0.1
"""MP3 headers count whole frames and may be off by a few; anything more is missing music."""
UNKNOWN_LENGTH_FRAMES = 1 << 62
"""From here on libsndfile means that a streamed header gives no length."""


@dataclass(frozen=True)
class AudioInfo:
    """What a header says; the duration is a claim until decoded."""

    sample_rate_hz: int
    num_channels: int
    announced_samples: int
    """Per channel; 0 if the header does not say."""
    container: str
    """libsndfile's word: WAV, FLAC, OGG, MP3, ..."""


class AudioFile:
    """An open file: its header and, once, its samples. Made by `open_audio`."""

    def __init__(self, path: Path, file: soundfile.SoundFile) -> None:
        self._path = path
        self._file = file
        frames = int(file.frames)
        self.info = AudioInfo(
            sample_rate_hz=int(file.samplerate),
            num_channels=int(file.channels),
            announced_samples=0 if frames >= UNKNOWN_LENGTH_FRAMES else frames,
            container=str(file.format),
        )
        if not MIN_RATE_HZ <= self.info.sample_rate_hz <= MAX_RATE_HZ:
            raise UnreadableAudioError(
                f"{path}: sample rate: {self.info.sample_rate_hz} Hz, "
                f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz can be read"
            )

    def blocks(self, max_duration_s: float) -> Iterator[Float32[np.ndarray, "C N"]]:
        """Every sample of the file, in blocks of bounded size.

        Args:
            max_duration_s: Stop with an error once more than this is decoded.

        Raises:
            UnreadableAudioError: If decoding fails, a sample is not finite, nothing is in the file
                or the file ends before its header says.
            AudioTooLongError: If more seconds are decoded than allowed.
        """
        rate_hz = self.info.sample_rate_hz
        max_samples = int(max_duration_s * rate_hz)
        num_samples = 0
        while (block := self._read_block()).shape[1]:
            num_samples += block.shape[1]
            if num_samples > max_samples:
                raise AudioTooLongError(
                    f"{self._path}: too long: more than {max_duration_s:g} s of music"
                )
            if not np.isfinite(block).all():
                at_s = (num_samples - block.shape[1]) / rate_hz
                raise UnreadableAudioError(
                    f"{self._path}: non-finite: holds NaN or infinity from about {at_s:.0f} s on"
                )
            yield block
        self._check_end(num_samples)

    def _read_block(self) -> Float32[np.ndarray, "C N"]:
        frames = max(1, BLOCK_VALUES // self.info.num_channels)
        try:
            block = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UnreadableAudioError(
                f"{self._path}: damaged: decoding stops with an error ({_tidy(error.error_string)})"
            ) from error
        return np.ascontiguousarray(block.T)

    def _check_end(self, num_samples: int) -> None:
        if num_samples == 0:
            raise UnreadableAudioError(f"{self._path}: empty: holds no sample")
        rate_hz = self.info.sample_rate_hz
        announced_s = self.info.announced_samples / rate_hz
        decoded_s = num_samples / rate_hz
        if announced_s - decoded_s > ANNOUNCED_TOLERANCE_S:
            raise UnreadableAudioError(
                f"{self._path}: cut off: {decoded_s:.2f} s could be decoded, "
                f"its header announces {announced_s:.2f} s"
            )


@contextmanager
def open_audio(path: Path) -> Generator[AudioFile]:
    """Open an audio file; nothing but a regular file is ever opened for reading.

    Anything else, and content that is no format libsndfile decodes, is an `UnreadableAudioError`.
    """
    descriptor = _open_regular(path)
    try:
        with _open_decoder(path, descriptor) as file:
            yield AudioFile(path, file)
    finally:
        os.close(descriptor)


def read_audio(path: Path, max_duration_s: float) -> tuple[Float32[np.ndarray, "C N"], int]:
    """All samples of a file and its sample rate in Hz; errors as in `AudioFile.blocks`.

    Args:
        path: Any file libsndfile decodes.
        max_duration_s: Cap on decoded seconds, whatever the header claims.
    """
    with open_audio(path) as file:
        blocks = list(file.blocks(max_duration_s))
        return np.concatenate(blocks, axis=1), file.info.sample_rate_hz


def probe_audio(path: Path) -> AudioInfo:
    """What the header of a file says, nothing decoded; errors as in `open_audio`."""
    with open_audio(path) as file:
        return file.info


def _open_regular(path: Path) -> int:
    try:
        # not blocking: opening a FIFO would otherwise wait for a writer that never comes
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "its name holds a NUL"
        raise UnreadableAudioError(f"{path}: cannot be opened: {what}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableAudioError(f"{path}: not a regular file")
    return descriptor


def _open_decoder(path: Path, descriptor: int) -> soundfile.SoundFile:
    if os.fstat(descriptor).st_size == 0:
        raise UnreadableAudioError(f"{path}: empty: the file has 0 bytes")
    try:
        # by descriptor: libsndfile then judges by content and never guesses from the extension
        return soundfile.SoundFile(descriptor, closefd=False)
    except soundfile.LibsndfileError as error:
        raise UnreadableAudioError(
            f"{path}: not music: no format that can be decoded ({_tidy(error.error_string)}), "
            "export it as WAV or FLAC"
        ) from error


def _tidy(message: str) -> str:
    return message.strip().rstrip(".")
