"""Codes of tracks: found where an earlier run left them, computed where none did.

`.scratch/encode` outlives every run and may be deleted at any time; then all is encoded again.

    codes/<aa>/<key>          codes of one signal of one track; key = hash of all that decides them
    shards/<recipe>.<sha256>  shards of the last store (`melodac.token_files.store_writer`)
    partial/                  files being written
    lock                      held by the one process that uses the folder

An entry is one line, the sha256 of a JSON header and that header, and then the codes. What an entry
holds is found by what it was made from and proven by its bytes. A track is encoded signal by signal
(its one channel, left, right, mid or side), each from a stream, so that neither the sound nor the
number of tracks decides the memory.
"""

import hashlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt16
from pydantic import PositiveInt, ValidationError

from melodac.audio.files.read import open_audio
from melodac.codec.interface import Codec
from melodac.config import Section
from melodac.errors import AudioError, TokenError, UnreadableAudioError
from melodac.files import hash_file, lock_alone, plain_errors, remove_folder, sync
from melodac.token_files.store_writer import TrackSource
from melodac.tokens.store.header import Channel, StoreHeader
from pipeline import paths
from pipeline.params import Params, RuntimeParams
from pipeline.paths import scratch
from pipeline.processes.workers import count_workers
from pipeline.records import NormalizedRecord

log = logging.getLogger(__name__)

ENTRY_VERSION = 1
"""Raise it when the entries' format or the arithmetic of encoding changes: none is then found."""

_MAX_HEADER_BYTES = 1024


class CachedCodes(Section):
    """The header of an entry."""

    key: str
    num_codebooks: PositiveInt
    num_frames: PositiveInt
    sha256: str
    """Of the codes."""

    @property
    def size_bytes(self) -> int:
        """Of the codes, 2 bytes each."""
        return 2 * self.num_codebooks * self.num_frames


@dataclass(frozen=True)
class EncodeScratch:
    """The scratch folder of the encode stage, while this process holds it."""

    codes: "CodeCache"
    shards: Path
    """Folder of a `ShardCache`."""


@contextmanager
def hold_encode_scratch() -> Iterator[EncodeScratch]:
    """Use the scratch folder; waits while another process does, whose codes are then found.

    The lock ends with its process, so a killed run leaves nothing to clean up. A folder that cannot
    be written is an `OutputError`.
    """
    folder = scratch("encode")
    with plain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        _wait_for(lock, folder)
        partial = folder / "partial"
        remove_folder(partial)  # of a run that was killed: only the holder of the lock writes
        partial.mkdir()
        yield EncodeScratch(CodeCache(folder / "codes", partial), folder / "shards")
    finally:
        os.close(lock)


class CodeCache:
    """Codes by key. Threads may use it at once, as long as no two write the same key."""

    def __init__(self, folder: Path, partial: Path) -> None:
        """Use a folder.

        Args:
            folder: Where entries lie.
            partial: Where they are written before they get their names; the same file system.
        """
        self._folder = folder
        self._partial = partial

    def find(self, key: str) -> CachedCodes | None:
        """What is known of an entry without reading its codes; None if there is none."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                line = file.readline(_MAX_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size - len(line)
        except FileNotFoundError:
            return None
        found = _parse(line)
        if found is None or found.key != key or found.size_bytes != size:
            return self._drop(path)
        return found

    def read(self, key: str) -> UInt16[np.ndarray, "K T"] | None:
        """The codes of an entry, every byte checked; None if there is none or it is damaged."""
        found = self.find(key)
        if found is None:
            return None
        content = self._path(key).read_bytes()[-found.size_bytes :]
        if hashlib.sha256(content).hexdigest() != found.sha256:
            return self._drop(self._path(key))
        codes = np.frombuffer(content, dtype="<u2").astype(np.uint16)
        return codes.reshape(found.num_codebooks, found.num_frames)

    def write(self, key: str, codes: UInt16[np.ndarray, "K T"]) -> None:
        """Keep codes, whole or not at all, and for good once this returns.

        A place that cannot be written is an `OutputError`.
        """
        content = np.ascontiguousarray(codes, dtype="<u2").tobytes()
        entry = CachedCodes(
            key=key,
            num_codebooks=codes.shape[0],
            num_frames=codes.shape[1],
            sha256=hashlib.sha256(content).hexdigest(),
        )
        header = json.dumps(entry.model_dump(), sort_keys=True).encode()
        line = hashlib.sha256(header).hexdigest().encode() + b" " + header + b"\n"
        path, partial = self._path(key), self._partial / key
        with plain_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(line + content)
            sync(partial)
            partial.replace(path)
            sync(path.parent)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _drop(self, path: Path) -> None:
        log.warning("%s is damaged: its track is encoded again", path)
        path.unlink()


def make_key(**parts: str | int) -> str:
    """Name of codes, from everything that decides them."""
    text = json.dumps({"entry_version": ENTRY_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(line: bytes) -> CachedCodes | None:
    checksum, _, header = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or hashlib.sha256(header).hexdigest().encode() != checksum:
        return None
    try:
        return CachedCodes.model_validate_json(header)
    except ValidationError:
        return None


def _wait_for(lock: int, folder: Path) -> None:
    holder = lock_alone(lock, str(os.getpid()))
    if holder is not None:
        log.info("%s is in use by process %s: waiting until it is done", folder, holder)
        lock_alone(lock, str(os.getpid()), waits=True)


STEREO: dict[str, tuple[Channel, ...]] = {
    "left_right": ("left", "right"),
    "mid_side": ("mid", "side"),
    "both": ("left", "right", "mid", "side"),
}
"""Signals encoded of a stereo track, for each value of encode.stereo."""

_TAKE: dict[Channel, Callable[[Float32[np.ndarray, "C N"]], Float32[np.ndarray, " N"]]] = {
    "mono": lambda block: block[0],
    "left": lambda block: block[0],
    "right": lambda block: block[1],
    "mid": lambda block: (block[0] + block[1]) / 2,
    "side": lambda block: (block[0] - block[1]) / 2,
}

AHEAD_PER_WORKER = 4
"""Tracks handed out at once, so that no worker waits and the list of tracks may be long."""

_REMEDY = "run `dvc repro --single-item --force normalize`, or `dvc checkout` to get it back"


def build_header(codec: Codec, params: Params, rows: Sequence[NormalizedRecord]) -> StoreHeader:
    """Header of a store of these tracks.

    Raises:
        AudioError: If there is no track, or the tracks do not all have the same channels.
    """
    counts = sorted({row.num_channels for row in rows})
    if counts not in ([1], [2]):
        raise AudioError(
            f"{paths.NORMALIZED_TABLE} lists tracks of {counts} channels, a store holds one kind: "
            "set normalize.channels to mono or stereo"
        )
    channels = ("mono",) if counts == [1] else STEREO[params.encode.stereo]
    return StoreHeader(
        codec=codec.name,
        weights_sha256=codec.weights_sha256,
        sample_rate_hz=codec.sample_rate_hz,
        hop=codec.hop,
        codebook_size=codec.codebook_size,
        channels=channels,
        codebooks=(codec.num_codebooks,) * len(channels),
        target_lufs=params.normalize.target_lufs,
    )


def choose_threads(runtime: RuntimeParams, device: torch.device) -> int:
    """Tracks side by side on a CPU, one torch thread each; one after another on a GPU.

    The operations of a small codec are too short to share between torch threads.
    """
    if device.type != "cpu":
        return 1
    torch.set_num_threads(1)
    return count_workers(runtime.workers)


class TrackEncoder:
    """Encodes tracks by one codec into one cache."""

    def __init__(
        self, codec: Codec, cache: CodeCache, channels: Sequence[Channel], *, device: torch.device
    ) -> None:
        """Prepare to encode.

        Args:
            codec: On `device`.
            cache: Where codes are kept.
            channels: Signals of every track, in the order of the store's columns.
            device: Codes of one kind of device may differ from those of another in a few places,
                so they are not mixed.
        """
        self._codec, self._cache, self._channels = codec, cache, tuple(channels)
        self._device = device

    def missing(self, rows: Iterable[NormalizedRecord]) -> list[NormalizedRecord]:
        """Tracks whose codes the cache does not have; of tracks of equal audio only the first."""
        found: dict[str, NormalizedRecord] = {}
        for row in rows:
            if any(self._cache.find(self._key(row, channel)) is None for channel in self._channels):
                found.setdefault(row.sha256, row)
        return list(found.values())

    def duration_s(self, rows: Iterable[NormalizedRecord]) -> float:
        """Seconds of sound in tracks, every signal counted."""
        num_samples = sum(row.num_samples for row in rows)
        return num_samples * len(self._channels) / self._codec.sample_rate_hz

    def use(self, codec: Codec) -> None:
        """Encode by another copy of the codec, which gives the same codes faster."""
        self._codec = codec

    def encode(self, rows: Iterable[NormalizedRecord], *, workers: int) -> Iterator[str]:
        """Fill the cache, side by side in threads; yields the id of each track that is done.

        A track's codes are in the cache before its id is yielded. A track whose audio is missing or
        damaged ends it with `UnreadableAudioError`.
        """
        stop = threading.Event()
        waiting = deque[tuple[str, Future[None]]]()
        remaining = iter(rows)
        pool = ThreadPoolExecutor(workers)
        try:
            while True:
                for row in islice(remaining, workers * AHEAD_PER_WORKER - len(waiting)):
                    waiting.append((row.id, pool.submit(self._encode, row, stop)))
                if not waiting:
                    return
                track_id, done = waiting.popleft()
                done.result()
                yield track_id
        finally:
            stop.set()  # after an error or Ctrl-C, threads end at their next chunk
            pool.shutdown(wait=True, cancel_futures=True)

    def source(self, row: NormalizedRecord) -> TrackSource:
        """The track for the store's writer; its codes must be in the cache.

        Raises:
            TokenError: If they are not.
        """
        keys = [self._key(row, channel) for channel in self._channels]
        entries = [entry for entry in map(self._cache.find, keys) if entry is not None]
        if len(entries) < len(keys):
            raise TokenError(f"track {row.id}: its codes were removed from the cache, run again")
        return TrackSource(
            id=row.id,
            num_frames=entries[0].num_frames,
            read=lambda: np.concatenate([self._read(row, entry) for entry in entries]),
            codes_sha256=" ".join(entry.sha256 for entry in entries),
        )

    def _read(self, row: NormalizedRecord, entry: CachedCodes) -> UInt16[np.ndarray, "K T"]:
        codes = self._cache.read(entry.key)
        if codes is None:
            self._encode(row, threading.Event())
            codes = self._cache.read(entry.key)
        if codes is None or self._cache.find(entry.key) != entry:
            raise TokenError(
                f"track {row.id} is encoded to other codes than before (by another version of "
                f"torch, or on other hardware): remove {paths.scratch('encode')} and run again"
            )
        return codes

    def _encode(self, row: NormalizedRecord, stop: threading.Event) -> None:
        path = paths.NORMALIZED_AUDIO / f"{row.id}.flac"
        _check_bytes(path, row)
        for channel in self._channels:
            key = self._key(row, channel)
            if self._cache.find(key) is not None:
                continue
            pieces: list[UInt16[np.ndarray, "K T"]] = []
            for piece in self._codec.encode_blocks(_read_signal(path, row, channel)):
                if stop.is_set():
                    return
                pieces.append(piece[0].numpy().astype(np.uint16))
            self._cache.write(key, np.concatenate(pieces, axis=1))

    def _key(self, row: NormalizedRecord, channel: Channel) -> str:
        return make_key(
            audio=row.sha256,
            channel=channel,
            weights=self._codec.weights_sha256,
            hop=self._codec.hop,
            num_codebooks=self._codec.num_codebooks,
            device=self._device.type,
        )


def _check_bytes(path: Path, row: NormalizedRecord) -> None:
    if not path.is_file():
        raise UnreadableAudioError(f"{path} is missing: {_REMEDY}")
    if hash_file(path) != row.sha256:
        raise UnreadableAudioError(
            f"{path} is damaged: its bytes are not those that {paths.NORMALIZED_TABLE} lists; "
            f"{_REMEDY}"
        )


def _read_signal(
    path: Path, row: NormalizedRecord, channel: Channel
) -> Iterator[Float32[np.ndarray, "1 N"]]:
    take = _TAKE[channel]
    with open_audio(path) as file:
        max_duration_s = row.num_samples / file.info.sample_rate_hz + 1
        for block in file.blocks(max_duration_s):
            yield take(block)[None]
