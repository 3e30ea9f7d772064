"""Laws of the sample music: what the table says is what the files hold, and composing is repeatable."""

import csv
import hashlib
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import soundfile

from data.sample.compose.arrange import all_scores, arrange
from data.sample.compose.catalogue import COMPOSITIONS, GENRES
from data.sample.compose.harmony import parse_key, parse_progression, voice
from data.sample.compose.instruments import INSTRUMENTS
from data.sample.compose.score import Score, tags

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
MAX_BYTES = 10_000_000
BLOCK = 44_100
NOTES_SHA256 = "ca0d6f41acf144af7c6d7a3ad94d91c4bc4b47c3a484a4daa5256ca0a8ef5131"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (SAMPLE / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scores() -> list[Score]:
    return list(all_scores())


def decoded_frames(path: Path) -> int:
    with soundfile.SoundFile(path) as file:
        assert file.samplerate == 44_100
        return sum(len(block) for block in file.blocks(BLOCK))


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
        if path.suffix in {".ogg", ".wav", ".flac", ".mp3", ".m4a", ".aiff"}
    )
    assert sorted(listed) == present


def test_audio_fits_in_ten_megabytes():
    assert sum(path.stat().st_size for path in (SAMPLE / "audio").iterdir()) <= MAX_BYTES


def test_decoded_length_is_whole_bars_of_six_to_ten_seconds(rows):
    for row in rows:
        duration_s = decoded_frames(SAMPLE / row["file_name"]) / 44_100
        beats = int(row["num_bars"]) * int(row["time_signature"].split("/")[0])
        assert 6.0 - 1e-3 <= duration_s <= 10.5, row
        assert duration_s == pytest.approx(beats * 60 / float(row["tempo_bpm"]), abs=1e-3), row


def test_every_group_has_variations(rows):
    sizes = Counter(row["group"] for row in rows)
    assert len(sizes) >= 25
    assert min(sizes.values()) >= 2


def test_tags_are_known_words(rows):
    known = set(GENRES) | set(INSTRUMENTS)
    known |= {"driving", "tense", "moody", "melancholic", "upbeat", "bright", "relaxed", "peaceful"}
    known |= {"slow", "fast", "medium tempo", "swing", "waltz time", "no drums"}
    for row in rows:
        words = row["tags"].split(", ")
        assert set(words) <= known, row
        assert len(set(words)) == len(words), row
        assert words[0] in GENRES, row


def test_table_matches_the_scores(rows, scores):
    facts = [
        (f"audio/{score.file_stem}.ogg", ", ".join(tags(score)), score.key.name) for score in scores
    ]
    assert [(row["file_name"], row["tags"], row["key"]) for row in rows] == facts


def test_rows_carry_key_and_licence(rows):
    for row in rows:
        assert re.fullmatch(r"[A-G][b#]? (major|minor)", row["key"]), row
        assert row["licence"] == "CC0-1.0"


def test_composing_twice_gives_the_same_notes(scores):
    for score in scores[:24:4]:
        composition = COMPOSITIONS[score.group]
        assert arrange(composition, score.variation) == score


def test_committed_audio_was_composed_from_these_notes(scores):
    assert digest(*scores) == NOTES_SHA256


def test_another_seed_gives_other_notes(scores):
    assert digest(next(all_scores(seed=21))) != digest(scores[0])


def test_midi_bytes_are_repeatable(scores):
    pytest.importorskip("mido", reason="mido is needed only to compose the sample music anew")
    midi = pytest.importorskip("data.sample.compose.midi")
    assert midi.stems_midi(scores[0]) == midi.stems_midi(next(all_scores()))


def test_notes_stay_in_the_range_of_their_instrument(scores):
    for score in scores:
        for part in score.parts:
            assert part.notes, (score.file_stem, part.role)
            low, high = part.instrument.low, part.instrument.high
            assert all(low <= note.pitch <= high for note in part.notes), score.file_stem


def test_variations_of_a_group_differ(scores):
    notes = {repr([part.notes for part in score.parts]) for score in scores}
    assert len(notes) == len(scores)


@pytest.mark.parametrize("group", sorted(COMPOSITIONS))
def test_voices_of_neighbouring_chords_move_little(group):
    composition = COMPOSITIONS[group]
    chords = parse_progression(
        composition.progression, parse_key(composition.key), composition.beats_per_bar
    )
    voicings = voice(chords, 60, is_rootless=False)
    for before, after in pairwise(voicings):
        assert abs(after[-1] - before[-1]) <= 7
        assert max(min(abs(pitch - old) for old in before) for pitch in after) <= 5
