"""Normalised tracks -> codes, of which only those are computed that no earlier run has left.

A track is encoded signal by signal (its one channel, left, right, mid or side), each from a stream,
so that neither the sound nor the number of tracks decides the memory. Used by the encode stage and
by repair; knows the cache, not the store's files.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt16

from melodac.audio.files.read import open_audio
from melodac.codec.interface import Codec
from melodac.errors import AudioError, TokenError, UnreadableAudioError
from melodac.files import hash_file
from melodac.store_writer import TrackSource
from melodac.tokens.store.header import Channel, StoreHeader
from pipeline import paths
from pipeline.cache.codes import CachedCodes, CodeCache, make_key
from pipeline.params import Params, RuntimeParams
from pipeline.processes.workers import count_workers
from pipeline.records import NormalizedRecord

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
