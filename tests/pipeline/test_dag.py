"""dvc.yaml read back gives order, inputs and edges."""

from pathlib import Path

from pipeline.dag import stage_inputs, stage_names, stage_parents
from pipeline.run import STAGES

DVC_FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"


def test_order_is_that_of_the_file():
    assert stage_names(DVC_FILE) == STAGES


def test_the_source_stands_for_the_user_s_folder():
    assert stage_inputs("ingest", "/somewhere/music", DVC_FILE) == [Path("/somewhere/music")]


def test_inputs_are_data_not_code():
    assert stage_inputs("index", "music", DVC_FILE) == [
        Path("data/ingest/catalogue.parquet"),
        Path("data/encode/tokens"),
    ]


def test_edges_follow_outputs():
    parents = stage_parents(DVC_FILE)
    assert parents["ingest"] == ()
    assert parents["encode"] == ("normalize",)
    assert set(parents["train"]) == {"encode", "index", "overfit"}
