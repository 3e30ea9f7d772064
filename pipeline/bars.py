"""Bars of a track in codec frames, from its tags; the index stage aligns windows to them.

A bar is counted from the first sample of the recording as it was ingested: where silence was cut
off, the first bar line lies earlier than the first frame and the next one is taken. Nothing is
guessed: a track without a usable tempo has no bars, and the reason is told.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from melodac.tokens.store.header import StoreHeader
from melodac.tokens.windows import Bars
from pipeline.records import TrackRecord

TEMPO = "tempo_bpm"
"""Tag: quarter notes a minute."""
TIME_SIGNATURE = "time_signature"
"""Tag: `3/4`, or the quarter notes of a bar alone; 4/4 where a track has none."""

MIN_TEMPO_BPM, MAX_TEMPO_BPM = 20.0, 400.0
NO_TEMPO = "no tempo_bpm"
_SIGNATURE = re.compile(r"(\d{1,2})(?:/(1|2|4|8|16))?")
_ALMOST = 1e-6
"""Bars by which a line may lie before the first sample and still be on it."""


class FoundBars(NamedTuple):
    """Bars by track, and for every reason the tracks that have none."""

    bars: dict[str, Bars]
    without: dict[str, list[str]]
    num_assumed: int
    """Tracks with a tempo and no time signature, which are taken to be in 4/4."""


def find_bars(
    tracks: Sequence[TrackRecord],
    header: StoreHeader,
    *,
    start_samples: Mapping[str, int],
    num_frames: Mapping[str, int],
) -> FoundBars:
    """The bars of each track.

    Args:
        tracks: Tracks with their tags.
        header: The store's, for rate and hop.
        start_samples: First kept sample of a track; 0 where none is given.
        num_frames: Frames of each track.
    """
    bars: dict[str, Bars] = {}
    without: dict[str, list[str]] = {}
    num_assumed = 0
    for track in tracks:
        start_s = start_samples.get(track.id, 0) / header.sample_rate_hz
        found = _read_bars(track.tags, start_s, header.sample_rate_hz / header.hop)
        if isinstance(found, Bars) and found.first >= num_frames[track.id] - 0.5:
            found = "no bar line inside"
        if isinstance(found, str):
            without.setdefault(found, []).append(track.id)
        else:
            bars[track.id] = found
            num_assumed += TIME_SIGNATURE not in track.tags
    return FoundBars(bars, without, num_assumed)


def _read_bars(tags: Mapping[str, str], start_s: float, frame_rate_hz: float) -> Bars | str:
    if TEMPO not in tags:
        return NO_TEMPO
    tempo_bpm = _read_tempo(tags[TEMPO])
    if tempo_bpm is None:
        return f"{TEMPO} is no number from {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g}"
    quarters = _read_quarters(tags.get(TIME_SIGNATURE, "4/4"))
    if quarters is None:
        return f"{TIME_SIGNATURE} is not like 4/4"
    bar_s = quarters * 60.0 / tempo_bpm
    first_s = math.ceil(start_s / bar_s - _ALMOST) * bar_s - start_s
    return Bars(max(first_s, 0.0) * frame_rate_hz, bar_s * frame_rate_hz)


def _read_tempo(text: str) -> float | None:
    try:
        tempo_bpm = float(text)
    except ValueError:
        return None
    return tempo_bpm if MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM else None


def _read_quarters(text: str) -> float | None:
    found = _SIGNATURE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        return None
    return int(found[1]) * 4.0 / int(found[2] or 4)
