import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import PurePosixPath
from urllib.parse import unquote

import pytest

from melodac.errors import OutputError
from melodac.report.listening_page import render_listening_page, write_listening_page
from melodac.report.page_content import (
    CodebookEntropy,
    CurvePoint,
    DemoClip,
    Fact,
    ListeningPage,
    Rung,
    RungKind,
)

ATTACK = "<img src=x onerror=alert(1)>\"' onmouseover=alert(2) </script><script>alert(3)</script>"
VOID = {"meta", "link", "img", "br", "input"}
SHAPES = {"path", "line", "circle", "rect"}


def make_clip(name="loop", **changes):
    plain = DemoClip(
        audio=PurePosixPath(f"audio/{name}.flac"),
        picture=PurePosixPath(f"pictures/{name}.png"),
        label="A loop",
        tags="bass, 120 bpm",
        duration_s=8.0,
        peak_dbfs=-1.04,
        rms_dbfs=-18.3,
        verdicts=("ok",),
    )
    return replace(plain, **changes)


def make_page(*clips, kind=RungKind.FREE_RUN, **changes):
    page = ListeningPage(
        title="melodac",
        facts=(Fact(label="delay", value="musicgen"), Fact(label="updates", value="1,500")),
        rungs=(Rung(kind=kind, clips=clips or (make_clip(),)),),
        curve=tuple(CurvePoint(update=u, train_nats=6 - u / 10) for u in range(5)),
        codebooks=(
            CodebookEntropy(codebook=0, model_nats=3.1, unigram_nats=5.2, bigram_nats=None),
        ),
    )
    return replace(page, **changes)


class Reader(HTMLParser):
    """Elements in order, and every tag that is not closed where it should be."""

    def __init__(self):
        super().__init__()
        self.elements, self.open, self.faults, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if len(attributes) != len(dict(attributes)):
            self.faults.append(f"repeated attribute in {tag}")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in SHAPES:
            self.faults.append(f"self-closed {tag}")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"unexpected end of {tag}")

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(render_listening_page(page))
    reader.close()
    return reader


def values(reader, tag, attribute):
    return [
        found[attribute] for name, found in reader.elements if name == tag and attribute in found
    ]


def full_page():
    sampled = tuple(
        make_clip(f"c{t}{s}", temperature=t, seed=s, prefix_s=3.0, label=label)
        for label in ("one", "two")
        for t in (0.0, 0.5, 1.0)
        for s in (1, 2)
    )
    return make_page(
        rungs=(
            Rung(kind=RungKind.ORIGINAL, clips=(make_clip(),)),
            Rung(kind=RungKind.ROUND_TRIP, clips=()),
            Rung(kind=RungKind.CONTINUATION, clips=sampled),
        )
    )


def test_tags_are_balanced_and_ids_unique():
    reader = read(full_page())
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert reader.faults == []
    assert reader.open == []
    assert len(ids) == len(set(ids))


def test_every_reference_inside_the_page_has_a_target():
    reader = read(full_page())
    ids = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
    named = [link.removeprefix("#") for link in values(reader, "a", "href")]
    for _, attributes in reader.elements:
        named += attributes.get("aria-labelledby", "").split()
    assert set(named) <= ids


def test_nothing_comes_from_a_network():
    text = render_listening_page(full_page())
    assert re.findall(r"(?:https?:)?//[\w.-]+\.\w|@import|url\(", text) == []


@pytest.mark.parametrize("field", ["label", "tags"])
def test_text_from_files_is_never_markup(field):
    page = make_page(make_clip(**{field: ATTACK}), make_clip(temperature=0.5, **{field: ATTACK}))
    reader, clean = read(page), read(make_page(make_clip(), make_clip(temperature=0.5)))
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in clean.elements]
    assert ATTACK in "".join(reader.text)


@pytest.mark.parametrize(
    "page",
    [
        make_page(title=ATTACK),
        make_page(facts=(Fact(label=ATTACK, value=ATTACK), Fact(label="a", value="b"))),
        make_page(make_clip(verdicts=(ATTACK,))),
        make_page(make_clip(ATTACK.replace("/", ""))),
    ],
    ids=["title", "fact", "verdict", "file name"],
)
def test_no_attack_becomes_an_element_or_a_handler(page):
    reader = read(page)
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in read(make_page()).elements]
    assert not [
        name for _, attributes in reader.elements for name in attributes if name.startswith("on")
    ]


def test_the_policy_allows_the_pages_own_script_and_no_other():
    text = render_listening_page(make_page())
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}';" in text.replace("&#39;", "'").replace("&#43;", "+")


@pytest.mark.parametrize("name", ["a#b?c%20", "javascript:x", "ü 音", "a&b=<c>"])
def test_addresses_lead_back_to_the_file(name):
    (address,) = values(read(make_page(make_clip(name))), "audio", "src")
    assert address.startswith("./audio/")
    assert not set("#?:<> ") & set(address)
    assert unquote(address) == f"./audio/{name}.flac"


def test_every_clip_has_a_picture_a_player_and_a_spoken_name():
    reader = read(full_page())
    assert len(values(reader, "audio", "controls")) == 13
    assert len([alt for alt in values(reader, "img", "alt") if alt]) == 13
    assert "Continuation, two, temperature 0.5, seed 2" in values(reader, "audio", "aria-label")


def test_columns_are_temperatures_and_seeds_are_visible():
    words = " ".join("".join(read(full_page()).text).split())
    assert words.index("T = 0 ") < words.index("T = 0.5") < words.index("T = 1 ")
    assert words.count("seed 2") == 6


def test_a_temperature_without_a_clip_is_said():
    page = make_page(
        make_clip(temperature=0.0, label="one"), make_clip(temperature=1.0, label="two")
    )
    assert "".join(read(page).text).count("no clip") == 2


def test_the_real_beginning_is_marked_at_its_share():
    text = render_listening_page(make_page(make_clip(prefix_s=3.0, temperature=1.0)))
    assert '<span class="prefix" style="width: 37.50%">' in text


def test_a_short_clip_has_a_shorter_picture():
    text = render_listening_page(make_page(make_clip(), make_clip(duration_s=2.0)))
    assert re.findall(r'class="picture" style="width: ([\d.]+)%"', text) == ["100.00", "25.00"]


def test_missing_numbers_are_dashes_and_never_zero():
    words = "".join(read(make_page(make_clip(peak_dbfs=-3.0, rms_dbfs=None))).text)
    assert "peak \N{MINUS SIGN}3.0 · RMS \N{EN DASH} dBFS" in words


def test_charts_without_numbers_are_left_out():
    reader = read(make_page(curve=(), codebooks=()))
    assert "chart" not in values(reader, "figure", "class")
    assert "#numbers" not in values(reader, "a", "href")


def test_equal_pages_have_equal_bytes():
    assert render_listening_page(full_page()) == render_listening_page(full_page())


@pytest.mark.parametrize("path", ["/abs/a.flac", "../a.flac", "audio/../../a.flac"])
def test_files_outside_the_folder_are_refused(path):
    with pytest.raises(OutputError, match=re.escape(repr(path))):
        make_clip(audio=PurePosixPath(path))


def write_clip_files(folder, clip):
    for path in (folder / clip.audio, folder / clip.picture):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")


def test_the_page_is_written_whole_and_alone(tmp_path):
    write_clip_files(tmp_path, make_clip())
    write_listening_page(tmp_path / "index.html", make_page())
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == render_listening_page(
        make_page()
    )
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "audio", "pictures"}


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_a_clip_without_its_sound_is_named(tmp_path, fault):
    write_clip_files(tmp_path, make_clip())
    sound = tmp_path / "audio" / "loop.flac"
    sound.unlink() if fault == "missing" else sound.write_bytes(b"")
    with pytest.raises(OutputError, match=re.escape(str(sound))):
        write_listening_page(tmp_path / "index.html", make_page())
    assert not (tmp_path / "index.html").exists()


def test_a_page_without_any_clip_is_a_failure(tmp_path):
    with pytest.raises(OutputError, match="at least one clip"):
        write_listening_page(tmp_path / "index.html", make_page(rungs=()))


def test_a_page_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    write_clip_files(tmp_path, make_clip())
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OutputError, match=r"cannot write the listening page .*index\.html"):
        write_listening_page(tmp_path / "index.html", make_page())
    assert not list(tmp_path.glob(".*"))


def relative_luminance(colour):
    """Source: WCAG 2.2, definition of relative luminance."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "pair",
    [
        "ink/paper",
        "ink/card",
        "muted/paper",
        "muted/card",
        "accent/paper",
        "card/accent",
        "warm/paper",
        "good/good-back",
        "fault/fault-back",
        "fault/card",
    ],
)
def test_text_has_enough_contrast(scheme, pair):
    style = files("melodac.report").joinpath("listening_page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", blocks[scheme == "dark"]))
    lighter, darker = sorted(
        (relative_luminance(colours[name]) for name in pair.split("/")), reverse=True
    )
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
