"""One decision is one factor, however many keys it changes; two are no comparison."""

import pytest

from melodac.doctor.diagnosis import Patient, examine
from melodac.doctor.differences import (
    Present,
    describe_difference,
    differing_factors,
)
from tests.doctor.runs import CONFIG, changed, findings_of, make_lines, write_run

OTHER_DELAY = {"delay__name": "dia", "delay__delays": [0, 8]}
STEREO = {
    "layout__name": "concatenated",
    "layout__columns": [{"channel": c, "codebook": 0} for c in "lr"],
}
ONE_FACTOR = {
    "train.delay": OTHER_DELAY,
    "train.size": {"model__dim": 16, "model__num_layers": 2},
    "train.dropout": {"model__dropout": 0.0, "train__dropout": 0.0},
    "train.learning_rate": {"train__learning_rate": 2e-3},
    "train.objective.label_smoothing": {"train__objective__label_smoothing": 0.1},
    "train.seed": {"train__seed": 7},
    "code": {"code_fingerprint": "new"},
    "data": {
        "data_fingerprint": "other",
        "starts__bars_sha256": "other",
        "tags_sha256": "other",
    },
    "tags": {"tags_sha256": "other"},
    "train.condition": {
        "train__condition": "tags",
        "model__text_bytes": 256,
        "model__memory_dim": 64,
        "tags_sha256": "other",
    },
    "codec": {
        "store__codec": "44khz",
        "store__codebooks": [9],
        "data_fingerprint": "other",
        "model__num_codebooks": 9,
        "delay__delays": list(range(9)),
        "layout__columns": [{"channel": "mono", "codebook": k} for k in range(9)],
    },
    "train.layout": {**STEREO, "delay__delays": [0, 0]},
    "index.window_frames": {"window_frames": 64},
    "index.align": {"starts__bars_sha256": "abc"},
}


@pytest.mark.parametrize("factor", ONE_FACTOR)
def test_one_decision_is_one_factor(factor):
    factors = differing_factors(CONFIG, changed(CONFIG, **ONE_FACTOR[factor]))
    assert [found.name for found in factors] == [factor]
    assert describe_difference(factors).startswith(f"differs in exactly one factor: {factor} (")


def test_equal_runs_differ_in_nothing():
    assert differing_factors(CONFIG, changed(CONFIG)) == []
    assert describe_difference([]) == "differs in no factor: the same run"


@pytest.mark.parametrize("one", ONE_FACTOR)
@pytest.mark.parametrize("two", ["train.seed", "train.learning_rate"])
def test_two_decisions_are_no_comparison(one, two):
    if one == two:
        return
    factors = differing_factors(CONFIG, changed(CONFIG, **ONE_FACTOR[one], **ONE_FACTOR[two]))
    assert {found.name for found in factors} == {one, two}
    assert describe_difference(factors).startswith("differs in 2 factors: not a comparison")


def test_another_delay_in_another_size_is_two_factors_although_a_codec_would_change_both():
    both = OTHER_DELAY | {"store__codec": "44khz", "model__dim": 16}
    names = [found.name for found in differing_factors(CONFIG, changed(CONFIG, **both))]
    assert names == ["codec", "train.delay", "train.size"]


def test_a_larger_size_of_a_model_that_reads_texts_is_one_factor():
    reading = {"train__condition": "tags", "model__text_bytes": 256, "model__memory_dim": 64}
    small = changed(CONFIG, **reading)
    large = changed(small, model__dim=16, model__memory_dim=128)
    assert [found.name for found in differing_factors(small, large)] == ["train.size"]
    names = [found.name for found in differing_factors(CONFIG, large)]
    assert names == ["train.condition", "train.size"]


def test_numbers_of_the_other_run_are_shown_only_beside_one_factor(tmp_path):
    lines = make_lines()
    this = Patient(write_run(tmp_path / "this"), (), lines)
    near = changed(CONFIG, **OTHER_DELAY)
    far = changed(near, train__seed=1)
    one = examine(this, other=Patient(write_run(tmp_path / "one", config=near), (), lines))
    two = examine(this, other=Patient(write_run(tmp_path / "two", config=far), (), lines))
    assert one.other_curve is not None
    assert two.other_curve is None
    severities = {
        name: {found.check: found.severity for found in report.findings}["one_factor"]
        for name, report in (("one", one), ("two", two))
    }
    assert severities == {"one": "ok", "two": "warning"}


def test_stale_code_and_other_data_are_told(tmp_path):
    patient = Patient(write_run(tmp_path), (), make_lines())
    same = findings_of(patient, present=Present("c0de", "da7a"))
    assert (same["code"].severity, same["data"].severity) == ("ok", "ok")
    other = findings_of(patient, present=Present("new", "other"))
    assert (other["code"].severity, other["data"].severity) == ("warning", "warning")
    assert "c0de then, new now" in other["code"].measured
    unknown = findings_of(patient, present=Present(None, None))
    assert (unknown["code"].severity, unknown["data"].severity) == ("note", "note")


def test_checkpoints_of_two_runs_in_one_folder_are_told(tmp_path):
    mixed = write_run(tmp_path, updates=(500,)) + write_run(
        tmp_path, updates=(600,), config=changed(CONFIG, train__seed=3)
    )
    found = findings_of(Patient(mixed, (), make_lines()))["one_run"]
    assert found.severity == "failure"
    assert "update 500: train.seed" in found.measured
