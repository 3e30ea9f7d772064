"""The doctor reads what the real trainer writes: diagnostics that nobody runs rot."""

import pytest

from melodac.doctor.diagnosis import Patient, examine
from melodac.training.checkpoint import numbered_checkpoints, open_checkpoint
from tests.training.faults import install


def patient_of(trainer):
    """Everything a run left: checkpoints, the best ones, and its log as the pipeline writes it."""
    folders = [
        folder
        for name in ("checkpoints", "best")
        for folder in numbered_checkpoints(trainer.directory / name)
    ]
    lines = [{"kind": "train", **line} for line in trainer.updates]
    lines += [{"kind": "validation", **line} for line in trainer.validations]
    lines += [{"kind": "event", **event.line()} for event in trainer.events]
    return Patient([open_checkpoint(folder) for folder in folders], (), lines)


def severities(report):
    return {finding.check: finding.severity for finding in report.findings}


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"schedule": "wsd", "decay_updates": 4}], ids=str)  # fmt: skip
def test_a_run_of_the_real_trainer_has_no_failure(build_trainer, tmp_path, changes):
    trainer = build_trainer(tmp_path, **changes)
    trainer.run()
    report = examine(patient_of(trainer))
    assert report.exit_code() == 0, report.findings[0]
    kinds = {moments.kind for moments in report.snapshots[-1].moments}
    muon = {"momentum_buffer"} if changes.get("optimizer") == "muon" else set()
    assert kinds == {"exp_avg", "exp_avg_sq"} | muon
    assert len(report.codebooks) == 2
    for check in ("finite", "frozen", "average_drift", "moments", "dead_parameters", "peak_rate",
                  "rate_rises", "log_order", "clips", "skips", "initial_loss", "one_run"):  # fmt: skip
        assert severities(report)[check] == "ok", check


def test_a_run_that_has_only_begun_is_healthy(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, stop_at=0)
    trainer.run()
    report = examine(patient_of(trainer))
    assert report.update == 0
    assert {finding.severity for finding in report.findings} <= {"ok", "note"}


def test_refused_updates_of_the_real_trainer_are_counted(build_trainer, tmp_path, monkeypatch):
    install(monkeypatch, {5: "nan loss", 9: "nan loss"})
    trainer = build_trainer(tmp_path)
    trainer.run()
    found = {f.check: f for f in examine(patient_of(trainer)).findings}
    assert found["skips"].value == pytest.approx(2 / 12, rel=1e-5)
    assert found["skips"].severity == "warning"
    assert found["finite_loss"].severity == "ok"


def test_a_rollback_of_the_real_trainer_is_told_and_excuses_the_rate(
    build_trainer, tmp_path, monkeypatch
):
    install(monkeypatch, dict.fromkeys((7, 8, 9), "nan loss"))
    trainer = build_trainer(tmp_path)
    trainer.run()
    found = {f.check: f for f in examine(patient_of(trainer)).findings}
    assert found["rollbacks"].value == 1.0
    assert found["rollbacks"].severity == "warning"
    assert (found["peak_rate"].severity, found["rate_rises"].severity) == ("ok", "ok")
    assert found["log_order"].severity == "ok"


def test_two_real_runs_are_compared_by_their_decisions(build_trainer, tmp_path):
    runs = {}
    for name, changes in {
        "one": {},
        "delayed": {"delay": (0, 2)},
        "both": {"delay": (0, 2), "learning_rate": 5e-3},
    }.items():
        trainer = build_trainer(tmp_path / name, stop_at=3, **changes)
        trainer.run()
        runs[name] = patient_of(trainer)
    for other, factors in {
        "one": [],
        "delayed": ["train.delay"],
        "both": ["train.delay", "train.learning_rate"],
    }.items():
        report = examine(runs["one"], other=runs[other])
        assert [factor.name for factor in report.factors] == factors
