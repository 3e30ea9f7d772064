"""Laws of the tables that `dvc plots` draws: nothing lost, nothing made up."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.train_log import (
    EVENT,
    MAX_ROWS,
    TRAIN,
    VALIDATION,
    build_tables,
    write_curves,
)

FILES = {
    "updates.csv",
    "train_codebooks.csv",
    "validation_codebooks.csv",
    "usage.csv",
    "entropy.csv",
    "attention.csv",
}


def update(number, **values):
    line = {
        "kind": TRAIN,
        "update": number,
        "loss": 6.0,
        "loss_k0": 5.0 + number,
        "loss_k1": 7.0,
        "learning_rate": 1e-3 * number,
        "grad_norm": 2.0 * number,
        "grad_norm_clipped": 1.0,
        "clip_frac": 0.5,
        "skip_frac": 0.0,
        "frames_per_s": 100.0,
    }
    return line | values


def validation(number, **values):
    return {
        "kind": VALIDATION,
        "update": number,
        "loss": 6.5,
        "loss_k0": 6.0,
        "loss_k1": 7.0,
    } | values


LOG = [
    {"kind": EVENT, "update": 0, "event": "audit", "reason": "sound", "loss": 6.93},
    update(1),
    update(2, loss_k0="nan", grad_norm="inf", is_skipped=True),
    {"kind": EVENT, "update": 2, "event": "skip", "reason": "not finite", "loss": "nan"},
    update(3, update_ratio=0.01),
    validation(3, usage_k0=0.5, target_usage_k0=0.9, entropy_k0=3.0, attention_entropy_l0=0.8),
    update(4),
    validation(4),
]


@pytest.fixture
def tables(tmp_path):
    write_curves(tmp_path / "curves", LOG)
    found = {}
    for path in (tmp_path / "curves").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            found[path.name] = list(csv.DictReader(file))
    return found


def column(rows, name):
    return [row[name] for row in rows]


def test_there_is_a_file_for_every_concern(tables):
    assert set(tables) == FILES


def test_every_update_has_its_row_and_events_have_none(tables):
    rows = tables["updates.csv"]
    assert column(rows, "update") == ["1", "2", "3", "4"]
    assert column(rows, "learning_rate") == ["0.001", "0.002", "0.003", "0.004"]
    assert column(rows, "grad_norm_clipped") == ["1.0"] * 4
    assert column(rows, "skip_frac") == ["0.0"] * 4


def test_what_is_missing_or_not_finite_is_an_empty_cell_and_never_zero(tables):
    rows = tables["updates.csv"]
    assert column(rows, "update_ratio") == ["", "", "0.01", ""]
    assert column(rows, "grad_norm") == ["2.0", "", "6.0", "8.0"]
    assert column(tables["usage.csv"], "usage_k0") == ["0.5", ""]
    assert column(tables["usage.csv"], "usage_k1") == ["", ""]
    assert column(tables["usage.csv"], "target_usage_k0") == ["0.9", ""]
    assert column(tables["entropy.csv"], "entropy_k0") == ["3.0", ""]
    assert column(tables["attention.csv"], "attention_entropy_l0") == ["0.8", ""]


def test_training_codebooks_are_means_since_the_last_validation(tables):
    rows = tables["train_codebooks.csv"]
    assert column(rows, "update") == ["3", "4"]
    assert column(rows, "loss_k0") == ["7.0", "9.0"]  # update 2 was refused: mean of 6 and 8
    assert column(tables["validation_codebooks.csv"], "loss_k0") == ["6.0", "6.0"]


def test_a_log_without_anything_gives_every_file_and_no_row(tmp_path):
    write_curves(tmp_path, [])
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert (tmp_path / "usage.csv").read_text() == "update\n"


def test_columns_are_the_same_whether_or_not_collapse_was_looked_for(tables, tmp_path):
    write_curves(tmp_path, [line for line in LOG if "usage_k0" not in line])
    with (tmp_path / "usage.csv").open() as file:
        found = csv.DictReader(file).fieldnames
    assert found == list(tables["usage.csv"][0])


@settings(max_examples=15)
@given(count=st.integers(1, 5 * MAX_ROWS))
def test_a_long_run_is_thinned_to_means_that_lose_no_update(count):
    lines = [{"kind": TRAIN, "update": n, "learning_rate": float(n)} for n in range(1, count + 1)]
    columns, rows = build_tables(lines)["updates"]
    assert len(rows) <= MAX_ROWS
    assert rows[-1]["update"] == count
    size = -(-count // MAX_ROWS)
    sizes = [size] * (len(rows) - 1) + [count - size * (len(rows) - 1)]
    total = sum(row["learning_rate"] * n for row, n in zip(rows, sizes, strict=True))
    assert total == pytest.approx(count * (count + 1) / 2)
    assert set(rows[0]) <= set(columns)


def test_a_spike_of_one_update_survives_the_means():
    lines = [update(n, grad_norm=500.0 if n == 777 else 1.0) for n in range(1, 3 * MAX_ROWS)]
    _, rows = build_tables(lines)["updates"]
    assert max(row["grad_norm_largest"] for row in rows) == 500.0


def test_the_same_log_gives_the_same_bytes(tmp_path):
    write_curves(tmp_path / "one", LOG)
    write_curves(tmp_path / "two", json.loads(json.dumps(LOG)))
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
