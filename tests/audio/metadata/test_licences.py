"""Laws of licences: one name for each, none guessed, totals that do not depend on order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.audio.metadata.fields import (
    LicenceTotal,
    canonical_licence,
    find_licence,
    summarize_licences,
)

SPELLINGS = {
    "CC0-1.0": [
        "CC0", "cc0 1.0", "CC-0", "CC0-1.0", "CC Zero", "Creative Commons Zero v1.0 Universal",
        "CC0 1.0 Universal", "http://creativecommons.org/publicdomain/zero/1.0",
        "https://creativecommons.org/publicdomain/zero/1.0/legalcode", "Creative Commons 0",
    ],
    "CC-BY-4.0": [
        "CC BY 4.0", "cc-by-4.0", "CC-BY 4.0 International", "Creative Commons Attribution 4.0",
        "Creative Commons Attribution 4.0 International License",
        "https://creativecommons.org/licenses/by/4.0/deed.en",
        "licensed under www.creativecommons.org/licenses/by/4.0/.",
    ],
    "CC-BY-3.0": ["Creative Commons Attribution: http://creativecommons.org/licenses/by/3.0/"],
    "CC-BY-3.0-US": ["https://creativecommons.org/licenses/by/3.0/us/", "CC-BY-3.0-US"],
    "CC-BY-SA-4.0": ["CC BY-SA 4.0", "CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0"],
    "CC-BY-NC-ND-2.5": [
        "cc by nc nd 2.5", "https://creativecommons.org/licenses/by-nc-nd/2.5/",
        "Creative Commons Attribution-NonCommercial-NoDerivs 2.5",
    ],
    "CC-BY": ["CC BY", "cc-by", "Creative Commons Attribution"],
    "public domain": [
        "Public Domain", "PD", "https://creativecommons.org/publicdomain/mark/1.0/",
    ],
    "unknown": ["", "  "],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "spellings"),
    SPELLINGS.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_licence_has_one_name(name, spellings):
    assert {spelling: canonical_licence(spelling) for spelling in spellings} == dict.fromkeys(
        spellings, name
    )
    assert canonical_licence(name) == name


@pytest.mark.parametrize(
    "words",
    ["All rights reserved", "© 2011 Ann", "CC BY-SA-ND-XX 9", "Creative Commons", "MIT", "CC",
     "by permission", "not CC0", "https://example.org/by/4.0/", "Artlist 2020"],
)  # fmt: skip
def test_unknown_words_stay_as_they_are(words):
    assert canonical_licence(words) == words
    assert find_licence(words) == ""


@given(st.text())
def test_naming_is_idempotent(text):
    assert canonical_licence(canonical_licence(text)) == canonical_licence(text)


@given(st.lists(st.tuples(st.sampled_from(["CC0", "cc0 1.0", "", "mine"]), st.floats(0, 1e6))))
def test_a_summary_counts_all_and_does_not_depend_on_order(tracks):
    summary = summarize_licences(tracks)
    assert summary == summarize_licences(reversed(tracks))
    assert list(summary) == sorted(summary)
    assert sum(total.tracks for total in summary.values()) == len(tracks)
    seconds = math.fsum(total.seconds for total in summary.values())
    assert seconds == pytest.approx(math.fsum(seconds for _, seconds in tracks))


def test_spellings_are_counted_together():
    tracks = [("CC0", 1.5), ("", 2.0), ("cc0-1.0", 3.0)]
    assert summarize_licences(tracks) == {
        "CC0-1.0": LicenceTotal(2, 4.5),
        "unknown": LicenceTotal(1, 2.0),
    }
