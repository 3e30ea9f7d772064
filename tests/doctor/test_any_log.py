"""Whatever a log holds, every check answers, and the answer is JSON."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.doctor.diagnosis import CHECKS, Patient, examine
from tests.doctor.runs import CONFIG, changed, write_run

NUMBERS = st.floats(0.0, 30.0, width=32) | st.sampled_from(["nan", "inf", "-inf"])
TRAIN = st.fixed_dictionaries(
    {"loss": NUMBERS, "learning_rate": st.floats(0.0, 1.0)},
    optional={
        "loss_k0": NUMBERS,
        "grad_norm": NUMBERS,
        "is_clipped": st.booleans(),
        "is_skipped": st.booleans(),
    },
)
VALIDATION = st.fixed_dictionaries(
    {"loss": st.floats(0.0, 30.0)},
    optional={
        "loss_k0": st.floats(0.0, 30.0),
        "usage_k0": st.integers(0, 1024),
        "target_usage_k0": st.integers(0, 1024),
        "sampled_entropy_k0": st.floats(0.0, 7.0),
        "target_entropy_k0": st.floats(0.0, 7.0),
        "attention_entropy_l0": st.floats(0.0, 1.0),
        "attention_entropy_l1": st.floats(0.0, 1.0),
    },
)


@st.composite
def logs(draw):
    """Lines in the order of their updates, most of them more than a shape takes."""
    lines = []
    pattern = draw(st.lists(TRAIN, min_size=1, max_size=8))
    for update in range(1, draw(st.integers(0, 120)) + 1):
        lines.append({"kind": "train", "update": update, **pattern[update % len(pattern)]})
        if draw(st.integers(0, 9)) == 0:
            lines.append({"kind": "validation", "update": update, **draw(VALIDATION)})
        if draw(st.integers(0, 19)) == 0:
            event = draw(st.sampled_from(["skip", "rollback", "alarm", "collapse", "audit"]))
            lines.append({"kind": "event", "update": update, "event": event, "reason": "so"})
    return lines


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@settings(max_examples=40)
@given(lines=logs(), warmup=st.integers(0, 200))
def test_every_check_answers_whatever_the_log_holds(checkpoints, lines, warmup):
    config = changed(CONFIG, train__warmup_updates=warmup)
    report = examine(Patient([replace(one, config=config) for one in checkpoints], (), lines))
    assert sorted(finding.check for finding in report.findings) == sorted(CHECKS)
    json.dumps([finding._asdict() for finding in report.findings], allow_nan=False)
    for finding in report.findings:
        assert finding.value is None or math.isfinite(finding.value)
        assert (finding.severity in {"warning", "failure"}) == bool(finding.diagnosis)


def test_weights_that_move_at_a_learning_rate_of_zero_moved_too_far(checkpoints):
    lines = [
        {"kind": "train", "update": update, "loss": 5.0, "learning_rate": 0.0}
        for update in range(1, checkpoints[-1].update + 1)
    ]
    findings = examine(Patient(checkpoints, (), lines)).findings
    reach = next(finding for finding in findings if finding.check == "reach")
    assert reach.severity == "failure"


def test_attention_of_layers_that_change_is_not_compared(checkpoints):
    lines = [
        {"kind": "validation", "update": update, "loss": 5.0, f"attention_entropy_l{layer}": 0.5}
        for update, layer in ((1, 7), (2, 8))
    ]
    findings = examine(Patient(checkpoints, (), lines)).findings
    attention = next(finding for finding in findings if finding.check == "attention")
    assert "no layer was measured" in attention.measured


def test_a_config_that_says_nothing_is_no_failure(tmp_path):
    report = examine(Patient(write_run(tmp_path, config={}), (), ()))
    assert {finding.severity for finding in report.findings} <= {"ok", "note"}
