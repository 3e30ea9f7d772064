"""Stereo through every stage after encode: columns in the order of the layout, sound in two channels."""

import csv
import json

import pytest
import soundfile

from melodac.codec.load import load_codec
from melodac.errors import ConfigError
from pipeline import paths
from pipeline.records import write_normalized
from pipeline.stages import demos, evaluate, index, overfit, train
from tests.pipeline.music_folder import params_for
from tests.pipeline.token_workplace import lay_out, make_header

SMALLEST = {
    "codec": {"weights": "bundled"},
    "index": {"window_frames": 32, "min_track_frames": 32},
    "overfit": {"windows": 1, "window_frames": 16, "prefix_frames": 4, "min_accuracy": 0.9},
    "evaluate": {"bootstrap_samples": 100},
    "demos": {"tracks": 1, "duration_s": 0.5, "prefix_s": 0.2, "temperatures": [1.0], "seeds": [0]},
    "runtime": {"wandb": "off", "device": "cpu", "threads": 1},
}
UPDATES = {
    "updates": 4, "warmup_updates": 1, "windows_per_update": 2, "micro_batch": 2,
    "validate_every": 2, "checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def smallest(layout, **more):
    return params_for("music", train={"layout": layout, **UPDATES}, **SMALLEST, **more)


def lay_out_for_the_bundled_codec(channels, codebooks):
    sha256 = load_codec("bundled").weights_sha256
    lay_out(make_header(channels, codebooks, weights_sha256=sha256), num_codes=1024)
    write_normalized(paths.NORMALIZED_TABLE, [])  # as after an import: no recordings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "channels", "codebooks", "first", "last"),
    [
        ("interleaved", ("left", "right"), (9, 9), "left 0", "right 8"),
        ("mid_side", ("left", "right", "mid", "side"), (9, 9, 9, 9), "mid 0", "side 8"),
        ("mid_side", ("mid", "side"), (9, 4), "mid 0", "side 3"),
    ],
)
def test_stereo_goes_all_the_way(layout, channels, codebooks, first, last):
    lay_out_for_the_bundled_codec(channels, codebooks)
    params = smallest(layout)
    gate = (overfit,) if layout == "interleaved" else ()
    for stage in (index, *gate, train, evaluate, demos):
        stage.run(params)
    with paths.CODEBOOK_TABLE.open(newline="") as file:
        names = [row["codebook"] for row in csv.DictReader(file)]
    assert (names[0], names[-1], len(names)) == (first, last, sum(codebooks[:2]))
    config = json.loads(next(paths.CHECKPOINT.glob("*/config.json")).read_text())
    assert config["layout"]["name"] == layout
    clips = sorted((paths.DEMOS / "audio").glob("*.flac"))
    assert {clip.name for clip in clips} == {
        "continuation-00.flac", "free_run-00.flac", "round_trip-00.flac"
    }  # fmt: skip
    assert {soundfile.info(clip).channels for clip in clips} == {2}
    page = (paths.DEMOS / "index.html").read_text()
    assert "none: the codes were imported" in page


@pytest.mark.slow
def test_baselines_stand_beside_the_column_they_were_counted_for():
    lay_out_for_the_bundled_codec(("left", "right"), (9, 9))
    params = smallest("interleaved")
    for stage in (index, train, evaluate):
        stage.run(params)
    counted = json.loads(paths.BASELINES.read_text())
    by_name = dict(zip(counted["columns"], counted["validation"]["bigram"], strict=True))
    with paths.CODEBOOK_TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["bigram"]) == pytest.approx(by_name[row["codebook"]], abs=1e-5)


def test_a_layout_that_the_store_cannot_give_is_refused():
    lay_out(make_header(("left", "right")))
    index.run(smallest("concatenated"))
    with pytest.raises(ConfigError, match="the store holds left, right"):
        overfit.run(smallest("mid_side"))
