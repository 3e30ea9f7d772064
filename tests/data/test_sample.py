"""Laws of the sample music: what the table says is what the files hold, and composing is repeatable."""

import csv
import hashlib
import re
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile

from data.sample.compose.harmony import voice
from data.sample.compose.instruments import INSTRUMENTS
from data.sample.compose.practice import HELD_OUT, draw_pieces
from data.sample.compose.score import Score, tags
from data.sample.compose.styles import STYLES, draw_compositions, sample_scores
from melodac.audio.split import SplitPlan, split_groups
from pipeline.params import load_params

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample"
RATE_HZ = 48_000
MAX_BYTES = 30_000_000
NOTES_SHA256 = "38f6680afa4e2ee2da1335854650e88a56ef747473413d88f1c8ae363d4fa18c"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (SAMPLE / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return list(sample_scores())


def duration_s(row: dict[str, str]) -> float:
    """Seconds that the score has."""
    beats = int(row["num_bars"]) * int(row["time_signature"].split("/")[0])
    return beats * 60 / int(row["tempo_bpm"])


def style(row: dict[str, str]) -> str:
    return row["tags"].split(", ")[0]


def digest(*scores: Score) -> str:
    """Hash of what is played, in MIDI ticks, so that the last bit of a float does not count."""
    played = [
        (round(480 * note.start_beats), round(480 * note.length_beats), note.pitch, note.velocity)
        for score in scores
        for part in score.parts
        for note in part.notes
    ]
    return hashlib.sha256(repr(played).encode()).hexdigest()


def test_table_lists_every_audio_file_once(rows):
    listed = [row["file_name"] for row in rows]
    present = sorted(
        path.relative_to(SAMPLE).as_posix()
        for path in SAMPLE.rglob("*")
        if path.suffix in {".ogg", ".opus", ".wav", ".flac", ".mp3", ".m4a", ".aiff"}
    )
    assert sorted(listed) == present


def test_an_hour_of_music_fits_in_thirty_megabytes(rows):
    assert sum(duration_s(row) for row in rows) >= 3600
    assert sum(path.stat().st_size for path in (SAMPLE / "audio").iterdir()) <= MAX_BYTES


def test_decoded_length_is_whole_bars_of_ten_to_sixteen_seconds(rows):
    for row in rows:
        info = soundfile.info(SAMPLE / row["file_name"])
        assert (info.samplerate, info.channels) == (RATE_HZ, 1)
        assert 10.0 <= info.duration <= 16.001, row
        assert info.duration == pytest.approx(duration_s(row), abs=1e-3), row


def test_every_style_has_fifty_compositions(rows):
    assert len({row["group"] for row in rows}) == len(rows)
    counts = Counter(map(style, rows))
    assert counts.keys() == {style.genre.name for style in STYLES}
    assert min(counts.values()) >= 50


def test_default_split_has_every_style_in_every_part(rows):
    ingest = load_params(ROOT / "params.yaml").ingest
    plan = SplitPlan(
        ingest.validation_frac, ingest.test_frac, ingest.min_validation_s, ingest.split_seed
    )
    seconds = {row["group"]: duration_s(row) for row in rows}
    split_of = split_groups({f"group:{group}": seconds[group] for group in seconds}, plan)
    for part in ("validation", "test"):
        chosen = [row for row in rows if split_of[f"group:{row['group']}"] == part]
        share = sum(map(duration_s, chosen)) / sum(seconds.values())
        assert 0.07 <= share <= 0.13
        assert {style(row) for row in chosen} == {style(row) for row in rows}


def test_tags_are_known_words(rows):
    known = {style.genre.name for style in STYLES} | set(INSTRUMENTS)
    known |= {"driving", "tense", "moody", "melancholic", "upbeat", "bright", "relaxed", "peaceful"}
    known |= {"slow", "fast", "medium tempo", "swing", "waltz time", "no drums"}
    for row in rows:
        words = row["tags"].split(", ")
        assert set(words) <= known, row
        assert len(set(words)) == len(words), row


def test_table_matches_the_scores(rows, scores):
    facts = [
        (f"audio/{score.file_stem}.opus", ", ".join(tags(score)), score.key.name, score.group)
        for score in scores
    ]
    assert [(row["file_name"], row["tags"], row["key"], row["group"]) for row in rows] == facts


def test_rows_carry_key_and_licence(rows):
    for row in rows:
        assert re.fullmatch(r"[A-G][b#]? (major|minor)", row["key"]), row
        assert row["licence"] == "CC0-1.0"


@pytest.mark.parametrize("place", range(len(STYLES)))
def test_a_loop_is_as_loud_as_promised_and_does_not_click(rows, place):
    audio, rate_hz = soundfile.read(SAMPLE / rows[place]["file_name"])
    assert pyloudnorm.Meter(rate_hz).integrated_loudness(audio) == pytest.approx(-16.0, abs=0.3)
    assert np.abs(audio).max() <= 10 ** (-1 / 20)
    assert max(abs(audio[0]), abs(audio[-1])) < 0.05  # what Opus leaves of the fades


def test_composing_twice_gives_the_same_notes(scores):
    assert list(islice(sample_scores(), len(STYLES))) == scores[: len(STYLES)]


def test_committed_audio_was_composed_from_these_notes(scores):
    assert digest(*scores) == NOTES_SHA256


def test_another_seed_gives_other_notes(scores):
    assert digest(next(sample_scores(seed=21))) != digest(scores[0])


def test_midi_bytes_are_repeatable(scores):
    pytest.importorskip("mido", reason="mido is needed only to compose the sample music anew")
    midi = pytest.importorskip("data.sample.compose.midi")
    assert midi.stems_midi(scores[0]) == midi.stems_midi(next(sample_scores()))


def test_notes_stay_in_the_range_of_their_instrument(scores):
    for score in scores:
        for part in score.parts:
            assert part.notes, (score.file_stem, part.role)
            low, high = part.instrument.low, part.instrument.high
            assert all(low <= note.pitch <= high for note in part.notes), score.file_stem


def test_no_two_compositions_are_alike(scores):
    tunes = {repr([part.notes for part in score.parts if part.role == "lead"]) for score in scores}
    assert len(tunes) == len(scores)


def test_voices_of_neighbouring_chords_move_little():
    for composition in draw_compositions():
        voicings = voice(composition.chords, 60, is_rootless=False)
        for before, after in pairwise(voicings):
            assert abs(after[-1] - before[-1]) <= 7, composition
            assert max(min(abs(pitch - old) for old in before) for pitch in after) <= 5, composition


def test_practice_pieces_for_training_never_use_a_held_out_instrument():
    pieces = list(draw_pieces(8.0, seed=7, soundfonts=(Path("one.sf2"), Path("two.sf2"))))
    assert {piece.split for piece in pieces} == {"train", "held_out"}
    for piece in pieces:
        names = {part.instrument.name for part in piece.score.parts}
        if piece.split == "held_out":
            assert names <= set(HELD_OUT)
        else:
            assert names.isdisjoint(HELD_OUT)
