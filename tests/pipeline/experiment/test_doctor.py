"""`melodac doctor`: finds what there is of a run, says what is wrong in words and as JSON."""

import json
import logging
import shutil

import pytest

from melodac.errors import CheckpointCorruptError
from melodac.training.checkpoint import open_checkpoint
from pipeline import paths
from pipeline.commands.doctor_report import render
from pipeline.experiment.doctor import examine_path, find_patient, leave_report, write_report
from pipeline.experiment.model import TRAINING_CODE
from pipeline.identity import fingerprint_code
from tests.doctor.runs import CONFIG, changed, make_lines, write_run


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The state of a run that is going on, in a checkout without data."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "run"
    write_run(directory / "checkpoints")
    write_run(directory / "best", updates=(300,))
    write_log(directory / "log.jsonl", make_lines())
    return directory


def updates_of(report):
    return [shot.update for shot in report.snapshots]


def severities(report):
    return {finding.check: finding.severity for finding in report.findings}


def test_a_run_a_folder_of_checkpoints_and_one_checkpoint_are_found(run):
    assert updates_of(examine_path(run)) == [300, 500, 600]
    assert updates_of(examine_path(run / "checkpoints")) == [500, 600]
    assert updates_of(examine_path(run / "checkpoints" / "00000500")) == [500]
    for place in (run, run / "checkpoints", run / "checkpoints" / "00000600"):
        assert examine_path(place).curve.updates == 600


def test_one_checkpoint_is_judged_by_what_had_happened_when_it_was_written(run):
    patient = find_patient(run / "checkpoints" / "00000500")
    assert max(line["update"] for line in patient.lines) == 500


def test_a_finished_run_is_found(run):
    shutil.copytree(run / "best", run.parent / "train" / "checkpoint")
    shutil.copy(run / "log.jsonl", run.parent / "train")
    report = examine_path(run.parent / "train")
    assert updates_of(report) == [300]
    assert report.curve.updates == 600
    assert report.exit_code() == 0


def test_a_run_without_a_log_is_judged_by_its_weights(run):
    (run / "log.jsonl").unlink()
    report = examine_path(run)
    assert report.exit_code() == 0
    assert severities(report)["learned"] == "note"


def damage(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_a_failure_and_the_others_are_examined(run):
    damage(run / "checkpoints" / "00000600")
    report = examine_path(run)
    assert updates_of(report) == [300, 500]
    assert report.exit_code() == 1
    assert report.findings[0].check == "damaged"
    assert "00000600" in report.findings[0].measured


def test_a_checkpoint_that_a_run_drops_meanwhile_is_no_damage(run, monkeypatch):
    def drop_first(folder):
        if folder.name == "00000500":
            shutil.rmtree(folder)
        return open_checkpoint(folder)

    monkeypatch.setattr("pipeline.experiment.doctor.open_checkpoint", drop_first)
    report = examine_path(run)
    assert updates_of(report) == [300, 600]
    assert severities(report)["damaged"] == "ok"


def test_what_cannot_be_examined_is_one_line(run):
    for folder in (run / "checkpoints").iterdir():
        damage(folder)
    (run / "empty").mkdir()
    for place, words in (
        (run / "checkpoints", "2 checkpoints and none is whole"),
        (run / "checkpoints" / "00000600", "none is whole"),
        (run / "checkpoints" / "00000700", "holds no checkpoint"),
        (run / "empty", "holds no checkpoint"),
        (run / "absent", "holds no checkpoint"),
    ):
        with pytest.raises(CheckpointCorruptError, match=words) as caught:
            examine_path(place)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", '{"kind": "train"}', '{"kind": "train", "up', "\xff"])
def test_a_damaged_log_is_one_line(run, text):
    with (run / "log.jsonl").open("ab") as file:
        file.write(text.encode("latin-1") + b"\n")
    with pytest.raises(CheckpointCorruptError, match=r"log\.jsonl is damaged") as caught:
        examine_path(run / "checkpoints" / "00000600")
    assert "\n" not in str(caught.value)


def write_index(columns, nats, fingerprint="da7a"):
    paths.INDEX.parent.mkdir(parents=True)
    paths.INDEX.write_text(json.dumps({"fingerprint": fingerprint}))
    baselines = {"columns": columns, "validation": {"unigram": nats}}
    paths.BASELINES.write_text(json.dumps(baselines))


def test_baselines_stand_in_the_order_of_the_columns_of_the_run(run):
    write_index(["mono 1", "mono 0"], [6.1, 6.8])
    report = examine_path(run)
    assert [row.unigram_nats for row in report.codebooks] == [6.8, 6.1]
    assert severities(report)["data"] == "ok"


def test_baselines_of_other_data_are_left_out_and_the_data_is_told(run):
    write_index(["mono 0", "mono 1"], [6.8, 6.1], fingerprint="other")
    report = examine_path(run)
    assert [row.unigram_nats for row in report.codebooks] == [None, None]
    assert severities(report)["above_unigram"] == "note"
    assert severities(report)["data"] == "warning"


def test_stale_code_is_told(run):
    assert severities(examine_path(run))["code"] == "warning"
    present = changed(CONFIG, code_fingerprint=fingerprint_code(TRAINING_CODE))
    write_run(run.parent / "fresh" / "checkpoints", config=present)
    assert severities(examine_path(run.parent / "fresh"))["code"] == "ok"


def test_another_run_is_compared_in_one_factor_only(run):
    near = changed(CONFIG, delay__name="dia", delay__delays=[0, 8])
    write_run(run.parent / "near" / "checkpoints", config=near)
    write_run(run.parent / "far" / "checkpoints", config=changed(near, train__seed=1))
    text = "\n".join(render(examine_path(run, run.parent / "near")))
    assert "differs in exactly one factor: train.delay (dia -> musicgen)" in " ".join(text.split())
    assert "best held out" in text.partition("compared")[2]
    text = "\n".join(render(examine_path(run, run.parent / "far")))
    assert "differs in 2 factors: not a comparison" in " ".join(text.split())
    assert "compared nothing" in text


def test_the_report_is_json_without_nan_and_the_same_bytes_each_time(run, tmp_path):
    def spoil(update, tensors):
        tensors["model"]["embedding.weight"][0, 0] = float("nan")

    write_run(run.parent / "sick" / "checkpoints", change=spoil)
    for name in ("one.json", "two.json"):
        write_report(tmp_path / name, examine_path(run.parent / "sick"))
    content = (tmp_path / "one.json").read_bytes()
    assert content == (tmp_path / "two.json").read_bytes()
    report = json.loads(content, parse_constant=pytest.fail)
    assert report["exit_code"] == 1
    assert report["snapshots"][0]["whole"]["norm"] is None
    assert {"check", "severity", "value", "measured", "threshold", "diagnosis"} == set(
        report["findings"][0]
    )


def test_the_stage_leaves_the_report_and_logs_what_is_not_well(run, tmp_path, caplog):
    write_log(run / "log.jsonl", make_lines(lambda update: 6.9 + update / 100))
    with caplog.at_level(logging.INFO, logger="pipeline.experiment.doctor"):
        report = leave_report(run, tmp_path / "out" / "doctor.json")
    assert json.loads((tmp_path / "out" / "doctor.json").read_text())["update"] == 600
    told = {record.getMessage().split(": ")[1]: record.levelname for record in caplog.records}
    assert told["divergence"] == "ERROR"
    assert told["code"] == "WARNING"
    assert set(told) == {f.check for f in report.findings if f.severity in {"warning", "failure"}}


def test_the_text_is_aligned_and_says_every_check(run):
    report = examine_path(run)
    lines = render(report)
    assert not [line for line in lines if line != line.rstrip() or len(line) > 120]
    start = next(n for n, line in enumerate(lines) if line.startswith("module"))
    table = lines[start : start + 1 + len(report.snapshots[-1].parts)]
    assert len({len(line) for line in table}) == 1
    for finding in report.findings:
        assert any(f"{finding.check}: " in line for line in lines), finding.check
    assert lines[-1].startswith("healthy, with warnings: failures 0, warnings 1")
