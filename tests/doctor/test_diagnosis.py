"""Laws of the doctor: order, limits, what is said and what is left alone."""

import dataclasses
import math
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melodac.doctor.diagnosis import CHECKS, Patient, Report, examine
from melodac.doctor.differences import Present
from melodac.doctor.findings import Check, Unmeasured, judge, list_first, significant
from melodac.errors import CheckpointCorruptError
from tests.doctor.runs import findings_of, healthy, make_lines, write_run


def not_measured(run):
    raise Unmeasured("nobody looked")


FLOOR = Check("c", "q", warning=2.0, failure=1.0, advice="a", measure=not_measured, is_floor=True)
CEILING = Check("c", "q", warning=1.0, failure=2.0, advice="a", measure=not_measured)


def test_checkpoints_are_ordered_by_their_update_whatever_the_listing_or_the_times(tmp_path):
    checkpoints = write_run(tmp_path, updates=(90, 100, 1000))
    for position, checkpoint in enumerate(checkpoints):
        os.utime(checkpoint.folder, (1000 - position, 1000 - position))
    reports = set()
    for seed in range(4):
        random.Random(seed).shuffle(checkpoints)
        report = examine(Patient(checkpoints, (), make_lines()))
        assert [shot.update for shot in report.snapshots] == [90, 100, 1000]
        reports.add(repr(report))
    assert len(reports) == 1


def test_raw_and_averaged_weights_meet_only_as_their_distance(tmp_path):
    def scale_average(update, tensors):
        tensors["ema"] = {name: 3 * weight for name, weight in tensors["model"].items()}

    plain = examine(Patient(write_run(tmp_path / "plain"), (), ())).snapshots
    other = examine(Patient(write_run(tmp_path / "other", change=scale_average), (), ())).snapshots
    for one, two in zip(plain, other, strict=True):
        assert (one.whole.norm, one.whole.moved) == (two.whole.norm, two.whole.moved)
        assert two.whole.drift == pytest.approx(2.0)


def test_norms_and_movements_are_those_of_the_tensors(tmp_path):
    earlier, later = write_run(tmp_path)
    report = examine(Patient([later, earlier], (), make_lines()))
    one, two = earlier.read_tensors("model"), later.read_tensors("model")
    square = sum(float(weight.double().square().sum()) for weight in two.values())
    moved = sum(float((two[n] - one[n]).double().square().sum()) for n in one)
    size = sum(float(weight.double().square().sum()) for weight in one.values())
    newest = report.snapshots[-1]
    assert newest.whole.norm == pytest.approx(math.sqrt(square))
    assert newest.whole.moved == pytest.approx(math.sqrt(moved / size), rel=1e-6)
    assert {part.module for part in newest.parts} == {"embedding", "blocks.0.attention", "head"}
    assert sum(part.parameters for part in newest.parts) == newest.whole.parameters


def test_of_two_checkpoints_of_one_update_the_one_with_moments_is_read(tmp_path):
    def drop_moments(update, tensors):
        del tensors["optimizer"]

    full = write_run(tmp_path / "checkpoints")
    best = write_run(tmp_path / "best", change=drop_moments)
    for order in (full + best, best + full):
        snapshots = examine(Patient(order, (), ())).snapshots
        assert [bool(shot.moments) for shot in snapshots] == [True, True]


def test_every_check_of_the_table_has_its_advice_and_is_made(tmp_path):
    patient = healthy(tmp_path)
    made = findings_of(patient, unigram=[6.9, 6.9], present=Present("x", "y"), other=patient)
    assert set(made) == set(CHECKS)
    for name, check in CHECKS.items():
        assert name == check.name
        assert check.advice
        assert check.question
        assert check.warning is not None or check.failure is not None


@given(st.floats(allow_nan=False))
def test_a_worse_value_is_never_judged_better(value):
    order = ("ok", "note", "warning", "failure")
    for check, worse in ((CEILING, value + 1), (FLOOR, value - 1)):
        one, two = (judge(check, v).severity for v in (value, worse))
        assert order.index(one) <= order.index(two)


@pytest.mark.parametrize("check", [FLOOR, CEILING])
def test_limits_are_themselves_within_and_nan_is_beyond_all(check):
    assert judge(check, check.warning).severity == "ok"
    assert judge(check, check.failure).severity == "warning"
    assert judge(check, math.nan).severity == "failure"
    assert judge(check, math.nan).value is None


def test_what_was_not_measured_is_said_and_never_zero(tmp_path):
    patient = healthy(tmp_path)
    assert {found.value for found in examine(patient).findings if found.severity == "note"} == {
        None
    }
    found = judge(CEILING, None, "nobody looked")
    assert (found.severity, found.value) == ("note", None)
    assert found.measured == "not measured: nobody looked"


def test_a_measurement_is_judged_by_its_own_check_only():
    assert [check.measure.__name__ for check in CHECKS.values()] == list(CHECKS)


def test_the_worst_comes_first_and_decides_the_exit_code(tmp_path):
    report = examine(healthy(tmp_path))
    assert (report.exit_code(), report.exit_code(is_strict=True)) == (0, 0)
    for severity, codes in (("warning", (0, 1)), ("failure", (1, 1))):
        found = (report.findings[0]._replace(severity=severity), *report.findings)
        sick: Report = dataclasses.replace(report, findings=found)
        assert (sick.exit_code(), sick.exit_code(is_strict=True)) == codes
    sick = examine(Patient(write_run(tmp_path / "sick"), ("one is damaged",), make_lines()))
    assert (sick.findings[0].check, sick.findings[0].severity) == ("damaged", "failure")


def test_looking_changes_no_byte(tmp_path):
    patient = healthy(tmp_path)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    first = examine(patient)
    assert repr(examine(patient)) == repr(first)
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob("*")) if p.is_file()} == before


def test_nothing_to_examine_is_an_error():
    with pytest.raises(CheckpointCorruptError, match="no checkpoint"):
        examine(Patient((), (), ()))


def test_numbers_are_short_and_what_json_lacks_is_none():
    assert significant(1 / 3) == 0.333333
    assert [significant(v) for v in (None, math.nan, math.inf)] == [None] * 3
    assert list_first([str(n) for n in range(7)]) == "0; 1; 2; 3; 4; and 2 more"
