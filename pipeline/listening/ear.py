"""Clips for the ear comparison, which measures sampled music against real music by six proxies.

Every row is a set of clips of one length. The truth is test music; the rows that the model did not
sample give the distances a scale: other music of the same folder, the codec's round trip, real
frames in random order, codes drawn from the unigram distribution, and white noise.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int

from melodac.audio.files.read import open_audio
from melodac.errors import EvaluationError
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.statistics import count_codes
from pipeline import paths
from pipeline.experiment.dataset import Dataset
from pipeline.listening.instrument import NOTHING, Instrument, Request
from pipeline.params import EvaluateParams
from pipeline.records import Split

EAR_SEED = 0


class RowName(StrEnum):
    """Name of a set of clips, in the order of the table."""

    CONTINUATIONS = "continuations"
    FREE_RUNS = "free_runs"
    OTHER_TRUTH = "other_truth"
    ROUND_TRIP = "round_trip"
    SHUFFLED = "shuffled_frames"
    UNIGRAM = "unigram"
    NOISE = "white_noise"


SAMPLED = (RowName.CONTINUATIONS, RowName.FREE_RUNS)
BROKEN = (RowName.SHUFFLED, RowName.UNIGRAM, RowName.NOISE)
"""Rows broken on purpose: sampled rows must be nearer to the truth than each of these."""

Sound = tuple[str, Float32[np.ndarray, "C N"]]
"""Resampling unit and samples of a clip; the bootstrap draws clips of one unit together."""


class _Span(NamedTuple):
    """Part of a track: a prefix for continuations, then the frames that are compared."""

    track_id: str
    start: int
    """First frame."""
    codes: Int[np.ndarray, "K T"]


class EarStudy:
    """Maker of the clips of every row, which depend on the data, the model and the seed alone."""

    def __init__(
        self,
        dataset: Dataset,
        instrument: Instrument,
        evaluate: EvaluateParams,
        *,
        groups: Mapping[str, str],
        recorded: frozenset[str],
    ) -> None:
        """Prepare to make the clips.

        Args:
            dataset: Codes of every split.
            instrument: Model and codec.
            evaluate: Number, length and sampling of the clips.
            groups: Group of each track; the resampling unit of its clips.
            recorded: Ids of the tracks that have a recording; codes of the others are decoded.
        """
        self.dataset, self.instrument, self.evaluate = dataset, instrument, evaluate
        self.groups, self.recorded = groups, recorded
        self.frames = instrument.frames_in(evaluate.clip_s)
        self.prefix_frames = instrument.frames_in(evaluate.prefix_s)
        self.settings = SamplingSettings(
            temperature=evaluate.temperature, top_k=evaluate.top_k, top_p=evaluate.top_p
        )

    def sounds(self, row: RowName) -> Iterator[Sound]:
        """Yield the clips of a row, made one at a time."""
        makers: dict[RowName, Callable[[], Iterator[Sound]]] = {
            RowName.CONTINUATIONS: self._continuations,
            RowName.FREE_RUNS: self._free_runs,
            RowName.OTHER_TRUTH: lambda: self.truth("validation"),
            RowName.ROUND_TRIP: self._round_trips,
            RowName.SHUFFLED: self._shuffled,
            RowName.UNIGRAM: self._unigrams,
            RowName.NOISE: self._noise,
        }
        return makers[row]()

    def truth(self, split: Split = "test") -> Iterator[Sound]:
        """Yield the recordings of the chosen spans, or their decoded codes where there is none."""
        for span in self._spans(split):
            if span.track_id not in self.recorded:
                yield self._decoded(span, span.codes[:, self.prefix_frames :])
                continue
            hop = self.instrument.codec.hop
            path = paths.NORMALIZED_AUDIO / f"{span.track_id}.flac"
            first = (span.start + self.prefix_frames) * hop
            yield self.groups[span.track_id], _read_part(path, first, self.frames * hop)

    def _round_trips(self) -> Iterator[Sound]:
        if not self.recorded:
            raise EvaluationError(
                "there is no recording to compare with: the codes were imported, the truth is "
                "itself a round trip"
            )
        for span in self._spans("test"):
            yield self._decoded(span, span.codes[:, self.prefix_frames :])

    def _shuffled(self) -> Iterator[Sound]:
        generator = np.random.default_rng(EAR_SEED)
        for span in self._spans("test"):
            order = self.prefix_frames + generator.permutation(self.frames)
            yield self._decoded(span, span.codes[:, order])

    def _unigrams(self) -> Iterator[Sound]:
        generator = np.random.default_rng(EAR_SEED)
        counts = count_codes(self.dataset.split("train"), self.dataset.header.codebook_size)
        shares = counts / counts.sum(axis=1, keepdims=True)
        for clip in range(self.evaluate.clips):
            codes = [generator.choice(len(row), self.frames, p=row) for row in shares]
            yield f"unigram {clip}", self._decode(np.stack(codes))

    def _noise(self) -> Iterator[Sound]:
        generator = np.random.default_rng(EAR_SEED)
        for clip, (_, audio) in enumerate(self.truth()):
            # at the level of the clip, so that level alone does not tell noise from music
            rms = np.sqrt(np.square(audio, dtype=np.float64).mean())
            yield f"noise {clip}", (rms * generator.normal(size=audio.shape)).astype(np.float32)

    def _continuations(self) -> Iterator[Sound]:
        spans = self._spans("test")
        for batch, request in self._batches(spans):
            prefix = torch.from_numpy(
                np.stack([spans[clip].codes[:, : self.prefix_frames] for clip in batch])
            )
            played = self._play(batch, request, prefix=prefix)
            for clip, codes in zip(batch, played, strict=True):
                # decoded with the prefix, so that the seam sounds as in a demo
                sound = self._decode(codes)[:, self.prefix_frames * self.instrument.codec.hop :]
                yield self.groups[spans[clip].track_id], sound

    def _free_runs(self) -> Iterator[Sound]:
        for batch, request in self._batches(self._spans("test")):
            for clip, codes in zip(batch, self._play(batch, request, prefix=None), strict=True):
                yield f"free run {clip}", self._decode(codes)

    def _batches(self, spans: Sequence[_Span]) -> Iterator[tuple[list[int], Request]]:
        """Yield clips to sample together: same text, at most `evaluate.windows_per_batch`."""
        tags = dict(zip(self.dataset.index.splits["test"], self.dataset.tags("test"), strict=True))
        clips_of: dict[str, list[int]] = defaultdict(list)
        for clip, span in enumerate(spans):
            clips_of[self.instrument.text_of(tags[span.track_id])].append(clip)
        for text, clips in clips_of.items():
            for first in range(0, len(clips), self.evaluate.windows_per_batch):
                batch = clips[first : first + self.evaluate.windows_per_batch]
                yield batch, Request(text) if text else NOTHING

    def _play(
        self, batch: Sequence[int], request: Request, *, prefix: Int[torch.Tensor, "B K P"] | None
    ) -> Int[np.ndarray, "B K T"]:
        codes = self.instrument.play(
            num_frames=self.frames + (0 if prefix is None else self.prefix_frames),
            seeds=[EAR_SEED + clip for clip in batch],  # by clip: the same for any batch size
            settings=self.settings,
            prefix=prefix,
            request=request,
        )
        return codes.numpy(force=True)

    def _decoded(self, span: _Span, codes: Int[np.ndarray, "K T"]) -> Sound:
        return self.groups[span.track_id], self._decode(codes)

    def _decode(self, codes: Int[np.ndarray, "K T"]) -> Float32[np.ndarray, "C N"]:
        return self.instrument.decode(torch.from_numpy(codes))

    def _spans(self, split: Split) -> list[_Span]:
        """Choose spans that do not overlap; one of every group before a second of any.

        Raises:
            EvaluationError: If no track is long enough.
        """
        array, length = self.dataset.split(split), self.prefix_frames + self.frames
        taken: dict[str, int] = defaultdict(int)
        ranked: list[tuple[int, int, _Span]] = []
        for track, track_id in enumerate(array.track_ids):
            codes = array.codes(track)
            for start in range(0, len(codes) - length + 1, length):
                part = codes[start : start + length].T.astype(np.int64)
                group = self.groups[track_id]
                ranked.append((taken[group], len(ranked), _Span(track_id, start, part)))
                taken[group] += 1
        if not ranked:
            raise EvaluationError(
                f"no {split} track has {length} frames (evaluate.prefix_s + evaluate.clip_s): "
                "lower evaluate.clip_s"
            )
        return [span for _, _, span in sorted(ranked, key=lambda entry: entry[:2])][
            : self.evaluate.clips
        ]


def _read_part(path: Path, first: int, num_samples: int) -> Float32[np.ndarray, "C N"]:
    """Read up to `num_samples` samples of a recording from `first` on, in bounded memory."""
    parts: list[Float32[np.ndarray, "C N"]] = []
    position = 0
    with open_audio(path) as audio:
        # the reader refuses longer files: a cap just above the length in the header
        announced_s = audio.info.announced_samples / audio.info.sample_rate_hz
        for block in audio.blocks(max_duration_s=announced_s + 1.0):
            start, stop = max(first - position, 0), first + num_samples - position
            parts.append(block[:, start:stop])
            position += block.shape[1]
            if position >= first + num_samples:
                break
    return np.concatenate(parts, axis=1)
