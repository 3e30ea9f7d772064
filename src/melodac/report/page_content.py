"""Content of the listening page: facts, clips on their rungs, and the numbers of the two charts.

Plain frozen data without files or layout, so that a stage fills it in and a test reads it. Rungs go
from the original recording to the model alone; each rung gives the sound less help.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from types import MappingProxyType

from melodac.errors import OutputError


class RungKind(StrEnum):
    """Rungs of the page, from the most help to none."""

    ORIGINAL = "original"
    ROUND_TRIP = "round_trip"
    CONTINUATION = "continuation"
    FREE_RUN = "free_run"


@dataclass(frozen=True, kw_only=True)
class RungNote:
    """Explanation of a rung for a listener who has never heard of codecs."""

    title: str
    what_it_is: str
    listen_for: str


RUNG_NOTES = MappingProxyType({
    RungKind.ORIGINAL: RungNote(
        title="Original",
        what_it_is="The recording itself, after loudness was levelled.",
        listen_for="How good it can get: nothing further down can sound better than this.",
    ),
    RungKind.ROUND_TRIP: RungNote(
        title="Codec round trip",
        what_it_is="The recording turned into codes and back. No model is involved.",
        listen_for=(
            "Dull attacks, grainy cymbals, a warble in held notes. The model can only speak in "
            "these codes, so do not blame it for what is lost here."
        ),
    ),
    RungKind.CONTINUATION: RungNote(
        title="Continuation",
        what_it_is="The beginning is real; from the line on, the model goes on alone.",
        listen_for=(
            "Do key, tempo and instruments cross the line unharmed? Is it still the same piece "
            "some seconds later, or does it drift, stall or repeat?"
        ),
    ),
    RungKind.FREE_RUN: RungNote(
        title="Free run",
        what_it_is="The model plays from nothing.",
        listen_for=(
            "Does it find a beat and a key by itself? Do other seeds give other music, "
            "or the same phrase again?"
        ),
    ),
})


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Labelled value about the run, such as its codec or its delay pattern."""

    label: str
    value: str


@dataclass(frozen=True, kw_only=True)
class DemoClip:
    """Clip of sound with its spectrogram; None where a value does not apply or is unmeasured."""

    audio: PurePath
    """Sound file, relative to the page's folder; FLAC, WAV and Ogg play in every browser."""
    picture: PurePath
    """Spectrogram, relative to the page's folder."""
    label: str
    """Name of the source track, or of the condition the clip was generated under."""
    tags: str = ""
    """Tags of the track or of the condition, as text."""
    duration_s: float
    prefix_s: float | None = None
    """Duration of the real beginning, before the model takes over."""
    temperature: float | None = None
    seed: int | None = None
    peak_dbfs: float | None = None
    """Largest sample after the real beginning."""
    rms_dbfs: float | None = None
    """Root mean square after the real beginning."""
    verdicts: tuple[str, ...] = ()
    """Labels of the detectors for the part after the real beginning; empty if none ran."""
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reason of each verdict, in plain words."""

    def __post_init__(self) -> None:
        for path in (self.audio, self.picture):
            if path.is_absolute() or ".." in path.parts:
                raise OutputError(
                    f"a clip's file must lie in the page's own folder: got {str(path)!r}, allowed "
                    "are relative paths without '..'; copy the file beside the page"
                )


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Clips that had the same help."""

    kind: RungKind
    clips: tuple[DemoClip, ...]

    @property
    def note(self) -> RungNote:
        """Title and explanation of the rung."""
        return RUNG_NOTES[self.kind]

    @property
    def temperatures(self) -> tuple[float | None, ...]:
        """Columns of the rung in ascending order; None, for clips without sampling, first."""
        found = {clip.temperature for clip in self.clips}
        sampled = sorted(temperature for temperature in found if temperature is not None)
        return (None, *sampled) if None in found else tuple(sampled)

    @property
    def longest_s(self) -> float:
        """Duration of the longest clip."""
        return max((clip.duration_s for clip in self.clips), default=0.0)

    @property
    def is_sampled(self) -> bool:
        """True if any clip was sampled at a temperature."""
        return any(clip.temperature is not None for clip in self.clips)

    @property
    def tracks(self) -> dict[str, tuple[DemoClip, ...]]:
        """Clips by label, in the order in which labels first appear."""
        labels = dict.fromkeys(clip.label for clip in self.clips)
        return {
            label: tuple(clip for clip in self.clips if clip.label == label) for label in labels
        }


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Cross-entropy at one update, in nats per code; None if not measured then."""

    update: int
    train_nats: float | None = None
    validation_nats: float | None = None


@dataclass(frozen=True, kw_only=True)
class CodebookEntropy:
    """Validation cross-entropy of one codebook in nats per code; None if not measured."""

    codebook: int | str
    """Number of the codebook, after the name of its channel where there are two."""
    model_nats: float | None
    unigram_nats: float | None
    bigram_nats: float | None


@dataclass(frozen=True, kw_only=True)
class EarDistance:
    """Distance of a set of clips from real music by one proxy; None if not measured."""

    proxy: str
    distance: float | None = None
    low: float | None = None
    """Lower and, below, upper bound of the 95 % interval."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class EarRow:
    """Distances of one set of clips from real music, by every proxy of the ear."""

    name: str
    is_sampled: bool
    """True if the model generated the clips."""
    distances: tuple[EarDistance, ...]
    missing: str = ""
    """Reason why nothing was measured; empty if it was."""


@dataclass(frozen=True, kw_only=True)
class ListeningPage:
    """Content of the whole page."""

    title: str
    facts: tuple[Fact, ...]
    rungs: tuple[Rung, ...]
    curve: tuple[CurvePoint, ...] = ()
    codebooks: tuple[CodebookEntropy, ...] = ()
    ear: tuple[EarRow, ...] = ()
    ear_summary: str = ""
    """Summary of the rows in one sentence."""
