"""dvc.yaml read back gives inputs and edges."""

from pathlib import Path

from pipeline.dag import stage_inputs, stage_parents

DVC_FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"


def test_the_source_stands_for_the_user_s_folder():
    assert stage_inputs("ingest", "/somewhere/music", DVC_FILE) == [Path("/somewhere/music")]


def test_inputs_are_data_not_code():
    assert stage_inputs("index", "music", DVC_FILE) == [
        Path("data/ingest/catalogue.parquet"),
        Path("data/normalize/normalized.parquet"),
        Path("data/encode/tokens"),
    ]


def test_edges_follow_outputs():
    parents = stage_parents(DVC_FILE)
    assert parents["ingest"] == ()
    assert parents["encode"] == ("normalize",)
    assert set(parents["train"]) == {"encode", "index", "overfit"}
