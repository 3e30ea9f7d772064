"""What the page says of the model's faults: labels with reasons, and distances to real music."""

from dataclasses import replace

from melodac.report.listening_page import render_listening_page
from melodac.report.page_content import EarDistance, EarRow
from tests.report.test_listening_page import ATTACK, make_clip, make_page, read


def make_ear(**changes):
    cells = (
        EarDistance(proxy="log_mel", distance=-0.004, low=-1.25, high=12.5),
        EarDistance(proxy="hold"),
    )
    row = EarRow(name="free_runs", is_sampled=True, distances=cells)
    return make_page(ear=(replace(row, **changes),), ear_summary="Nearer on 5 of 6.")


def test_distances_stand_with_their_intervals_and_what_they_listen_for():
    reader = read(make_ear())
    words = " ".join("".join(reader.text).split())
    minus = "\N{MINUS SIGN}"
    assert f"free runs {minus}0.00 {minus}1.25 to 12.5 \N{EN DASH}" in words
    assert "how long tones are held, in seconds" in words
    assert "Nearer on 5 of 6." in words
    assert (reader.faults, reader.open) == ([], [])


def test_a_missing_row_says_why_and_shows_no_number():
    reader = read(make_ear(missing=ATTACK))
    assert f"missing: {ATTACK}" in "".join(reader.text)
    assert "12.5" not in "".join(reader.text)


def test_a_page_without_an_ear_has_no_table_of_it():
    assert "proxies of the ear" not in render_listening_page(make_page())


def test_a_fault_says_why_in_words():
    clip = make_clip(verdicts=("noise",), reasons={"noise": "no moment leads to the next"})
    words = " ".join("".join(read(make_page(clip)).text).split())
    assert "noise: no moment leads to the next" in words
