"""Clips of the listening page: FLAC file, spectrogram and detector verdicts of each."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt16
from torch import Tensor

from melodac.audio.files.read import read_audio
from melodac.audio.files.write import write_flac
from melodac.evaluation.detectors import examine_clip
from melodac.report.page_content import DemoClip, RungKind
from melodac.report.spectrogram import write_spectrogram
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.tags import SEPARATOR, tag_texts
from pipeline import paths
from pipeline.listening.instrument import NOTHING, Instrument, Request
from pipeline.params import DemosParams
from pipeline.records import TrackRecord
from pipeline.watch.tracking import Tracker

FREE_RUN_LABEL = "no prompt"
PEAK_CEILING = 0.98
"""Highest absolute sample of a clip; a louder clip is scaled down as a whole."""


class ClipWriter:
    """Writer of clips into the page's folder, which collects them by rung."""

    def __init__(self, folder: Path, instrument: Instrument) -> None:
        self.folder = folder
        self.instrument = instrument
        self.clips: dict[RungKind, list[DemoClip]] = {kind: [] for kind in RungKind}
        self.on_clip: Callable[[str], None] = lambda _: None
        self.tracker: Tracker | None = None
        (folder / "audio").mkdir(parents=True)
        (folder / "pictures").mkdir()

    def add(
        self,
        kind: RungKind,
        audio: Float32[np.ndarray, "C N"],
        *,
        codes: Int[Tensor, "K T"] | None,
        asked_s: float,
        label: str,
        prefix_s: float | None = None,
        **shown: str | float | int | None,
    ) -> None:
        """Write one clip; the detectors examine the part after its prefix.

        Args:
            kind: Rung of the clip.
            audio: The whole clip.
            codes: Codes of the clip without those of the prefix; None for a recording.
            asked_s: Duration that was requested, prefix included.
            label: Name of the track or of the condition.
            prefix_s: Duration of the prefix, which is real music.
            **shown: Further fields of `DemoClip`.
        """
        rate_hz = self.instrument.codec.sample_rate_hz
        name = f"{kind.value}-{len(self.clips[kind]):02d}"
        sound = PurePosixPath("audio") / f"{name}.flac"
        picture = PurePosixPath("pictures") / f"{name}.png"
        # the codec's phases differ from the recording's, so peaks may exceed full scale: scaled
        # down, since clipping is audible
        audible = audio * min(1.0, PEAK_CEILING / max(float(np.abs(audio).max()), 1e-9))
        write_flac(self.folder / sound, audible, rate_hz, subtype="PCM_16")
        write_spectrogram(self.folder / picture, audible, rate_hz=rate_hz)
        found = examine_clip(
            audible[:, round((prefix_s or 0.0) * rate_hz) :],
            rate_hz=rate_hz,
            asked_s=asked_s - (prefix_s or 0.0),
            codes=None if codes is None else self._by_channel(codes),
        )
        clip = DemoClip(
            audio=sound,
            picture=picture,
            label=label,
            duration_s=audible.shape[1] / rate_hz,
            prefix_s=prefix_s,
            peak_dbfs=found.peak_dbfs,
            rms_dbfs=found.rms_dbfs,
            verdicts=found.labels,
            reasons=found.reasons,
            **shown,  # pyright: ignore[reportArgumentType]  checked by the dataclass itself
        )
        self.clips[kind].append(clip)
        if self.tracker is not None:
            self.tracker.log_audio(name, audible, rate_hz, label)
        self.on_clip(kind.value)

    def _by_channel(self, codes: Int[Tensor, "K T"]) -> Int[Tensor, "C K T"]:
        """Stack the codebooks that all channels have, as the detectors expect them."""
        channels = self.instrument.trained.layout.split_channels(codes).values()
        shared = min(len(rows) for rows in channels)
        return torch.stack([rows[:shared] for rows in channels])


def render_track(
    writer: ClipWriter,
    record: TrackRecord,
    values: UInt16[np.ndarray, "T K"],
    demos: DemosParams,
    *,
    has_original: bool,
) -> None:
    """Write the original (if there is one), round trip and continuations of one test track.

    Continuations are conditioned on the track's tags where the model reads tags.
    """
    instrument = writer.instrument
    codec = instrument.codec
    num_frames = instrument.frames_in(demos.duration_s)
    codes = torch.from_numpy(values[:num_frames].T.astype(np.int64))
    asked_s = codes.shape[-1] * codec.hop / codec.sample_rate_hz
    request = request_of(instrument, record, demos)
    tags = SEPARATOR.join(tag_texts(record.tags, record.path))
    told: dict[str, Any] = {"label": record.path, "tags": request.text or tags}
    if has_original:
        original, _ = read_audio(
            paths.NORMALIZED_AUDIO / f"{record.id}.flac", max_duration_s=record.duration_s + 1
        )
        original = original[:, : codes.shape[-1] * codec.hop]
        # the last frame is padded with silence if the recording ends inside it
        original_s = original.shape[-1] / codec.sample_rate_hz
        writer.add(RungKind.ORIGINAL, original, codes=None, asked_s=original_s, **told)
    writer.add(RungKind.ROUND_TRIP, instrument.decode(codes), codes=codes, asked_s=asked_s, **told)
    # the prefix of a short track leaves at least one frame to sample
    prefix = codes[:, : min(instrument.frames_in(demos.prefix_s), codes.shape[-1] - 1)]
    prefix_s = prefix.shape[-1] * codec.hop / codec.sample_rate_hz
    for settings, seeds in _grid(demos):
        made = instrument.play(
            num_frames=num_frames,
            seeds=seeds,
            settings=settings,
            prefix=prefix.expand(len(seeds), -1, -1),
            request=request,
        )
        for seed, clip in zip(seeds, made.cpu(), strict=True):
            writer.add(
                RungKind.CONTINUATION,
                instrument.decode(clip),
                codes=clip[:, prefix.shape[-1] :],
                asked_s=demos.duration_s,
                prefix_s=prefix_s,
                temperature=settings.temperature,
                seed=_shown_seed(settings, seed),
                **told,
            )


def render_free_runs(writer: ClipWriter, demos: DemosParams, record: TrackRecord | None) -> None:
    """Write clips sampled without a prefix, conditioned on the tags of a track if one is given."""
    instrument = writer.instrument
    request, label = NOTHING, FREE_RUN_LABEL
    if record is not None:
        request, label = request_of(instrument, record, demos), f"tags of {record.path}"
    for settings, seeds in _grid(demos):
        made = instrument.play(
            num_frames=instrument.frames_in(demos.duration_s),
            seeds=seeds,
            settings=settings,
            request=request,
        )
        for seed, clip in zip(seeds, made.cpu(), strict=True):
            writer.add(
                RungKind.FREE_RUN,
                instrument.decode(clip),
                codes=clip,
                asked_s=demos.duration_s,
                label=label,
                tags=request.text,
                temperature=settings.temperature,
                seed=_shown_seed(settings, seed),
            )


def request_of(instrument: Instrument, record: TrackRecord, demos: DemosParams) -> Request:
    """Build the request for a track's tags; `NOTHING` if it has none or the model reads none.

    An unconditional clip has no guidance: its two conditions would be the same.
    """
    text = instrument.text_of(tag_texts(record.tags, record.path))
    return Request(text, demos.guidance) if text else NOTHING


def _grid(demos: DemosParams) -> list[tuple[SamplingSettings, list[int]]]:
    # at temperature 0 nothing is drawn, so every seed would give the same clip
    return [
        (
            SamplingSettings(temperature=temperature, top_k=demos.top_k, top_p=demos.top_p),
            demos.seeds if temperature > 0 else demos.seeds[:1],
        )
        for temperature in demos.temperatures
    ]


def _shown_seed(settings: SamplingSettings, seed: int) -> int | None:
    return seed if settings.temperature > 0 else None
