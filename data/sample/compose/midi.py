"""Scores as MIDI: a loop with a run-up, its own last bars, whose tails ring into its start.

Needs `mido`, a dependency of composing only. One file holds the stems of a score one after the
other, so that a renderer loads its soundfont once.
"""

import math
from collections.abc import Iterator
from io import BytesIO

import mido

from data.sample.compose.score import Note, Part, Score, Take

TICKS_PER_BEAT = 480
LEAD_IN_BEATS = 1
_RUN_UP_S = 4.0
"""Least run-up, in seconds; what the stem before it left ringing dies away in it, too."""

_DRUM_CHANNEL = 9
_SWELL_STEP_BEATS = 0.25
_BEND_RANGE = 2
"""Semitones that a full pitch wheel bends: the default of General MIDI."""


def run_up_beats(score: Score) -> int:
    """Beats of the run-up: the last whole bars of the loop."""
    bars = math.ceil(_RUN_UP_S * score.tempo_bpm / 60 / score.beats_per_bar)
    return min(bars * score.beats_per_bar, score.num_beats)


def stem_beats(score: Score) -> int:
    """Whole beats from the start of one stem to the start of the next."""
    return LEAD_IN_BEATS + run_up_beats(score) + score.num_beats


def _ticks(beats: float) -> int:
    return round(beats * TICKS_PER_BEAT)


def _note_events(note: Note, offset: float, channel: int) -> Iterator[tuple[int, mido.Message]]:
    start = _ticks(offset + note.start_beats)
    end = max(start + 1, _ticks(offset + note.start_beats + note.length_beats) - 1)
    on = mido.Message(
        "note_on", channel=channel, note=note.pitch, velocity=note.velocity, time=start
    )
    yield start, on
    yield end, mido.Message("note_off", channel=channel, note=note.pitch, time=end)


def _controls(part: Part, offset: float, channel: int) -> Iterator[tuple[int, mido.Message]]:
    tick, instrument = _ticks(offset), part.instrument
    for control, value in ((121, 0), (7, 110), (10, instrument.pan), (91, instrument.reverb)):
        yield tick, mido.Message("control_change", channel=channel, control=control, value=value)
    yield tick, mido.Message("program_change", channel=channel, program=instrument.program)


def _swell(score: Score, offset: float, channel: int) -> Iterator[tuple[int, mido.Message]]:
    """Expression that rises and falls once in two bars (each bar where bars are odd in number)."""
    period = score.beats_per_bar * (2 if score.num_bars % 2 == 0 else 1)
    run_up = run_up_beats(score)
    for step in range(round((run_up + score.num_beats) / _SWELL_STEP_BEATS)):
        beat = step * _SWELL_STEP_BEATS
        value = round(100 - 22 * math.cos(2 * math.pi * (beat - run_up) / period))
        message = mido.Message("control_change", channel=channel, control=11, value=value)
        yield _ticks(offset + LEAD_IN_BEATS + beat), message


def _stem(score: Score, part: Part, offset: float) -> Iterator[tuple[int, mido.Message]]:
    channel = _DRUM_CHANNEL if part.instrument.is_drums else 0
    yield from _controls(part, offset, channel)
    if part.instrument.swells:
        yield from _swell(score, offset, channel)
    loop = offset + LEAD_IN_BEATS + run_up_beats(score)
    for note in part.notes:
        if note.start_beats >= score.num_beats - run_up_beats(score):
            yield from _note_events(note, loop - score.num_beats, channel)
        yield from _note_events(note, loop, channel)


def _file(score: Score, events: list[tuple[int, mido.Message]], end: int) -> bytes:
    """Bytes of a MIDI file with the events, up to the tick `end`."""
    events.sort(key=lambda event: (event[0], event[1].type != "note_off", event[1].bytes()))
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(score.tempo_bpm))])
    now = 0
    for tick, message in events:
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=max(0, end - now)))
    data = BytesIO()
    mido.MidiFile(tracks=[track], ticks_per_beat=TICKS_PER_BEAT, type=0).save(file=data)
    return data.getvalue()


def stems_midi(score: Score) -> bytes:
    """Bytes of a MIDI file with the stems of the score in the order of its parts."""
    events: list[tuple[int, mido.Message]] = []
    for place, part in enumerate(score.parts):
        events += _stem(score, part, place * stem_beats(score))
    return _file(score, events, len(score.parts) * stem_beats(score) * TICKS_PER_BEAT)


def take_midi(score: Score, take: Take) -> bytes:
    """Bytes of a MIDI file in which all parts play at once, each on a channel of its own."""
    events: list[tuple[int, mido.Message]] = []
    free = iter(channel for channel in range(16) if channel != _DRUM_CHANNEL)
    for part in score.parts:
        channel = _DRUM_CHANNEL if part.instrument.is_drums else next(free)
        events += _controls(part, 0.0, channel)
        volume = min(127, round(110 * 10 ** (part.level_db / 40)))
        settings = [mido.Message("control_change", channel=channel, control=7, value=volume)]
        if take.is_dry:
            settings.append(mido.Message("control_change", channel=channel, control=91, value=0))
        bend = round(8191 * take.detune / _BEND_RANGE)
        settings.append(mido.Message("pitchwheel", channel=channel, pitch=bend))
        events += [(1, message) for message in settings]
        for note in part.notes:
            events += _note_events(note, LEAD_IN_BEATS, channel)
    return _file(score, events, _ticks(LEAD_IN_BEATS + score.num_beats))
