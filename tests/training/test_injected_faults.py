"""Laws of a run that meets faults: each is refused, none leaves a trace, and the run goes on."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from melodac.errors import DivergenceError
from melodac.training.checkpoint import latest_checkpoint, open_checkpoint
from tests.training.faults import KINDS, differing, install, refused, tensors


def run_on(build_trainer, directory, updates):
    """A trainer that resumed, took so many updates and wrote its checkpoint."""
    trainer = build_trainer(directory, stop_at=updates)
    trainer.resume()
    trainer.run()
    return trainer


def folder(directory, update):
    return open_checkpoint(directory / "checkpoints" / f"{update:08d}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_update_is_refused_and_no_other_update(build_trainer, monkeypatch, kind):
    """A spike of the gradient alone needs a past to stand out from: at the first it is clipped."""
    faults = [2 if kind == "gradient spike" else 1, 7, 12]
    install(monkeypatch, dict.fromkeys(faults, kind))
    trainer = build_trainer()
    trainer.run()
    assert refused(trainer) == faults
    assert [(event.name, event.update) for event in trainer.events] == [
        ("skip", update) for update in faults
    ]
    assert all(math.isfinite(line["loss"]) for line in trainer.validations)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_any_part_of_an_update_is_refused(build_trainer, monkeypatch, kind):
    install(monkeypatch, {5: kind}, part=1, parts=3)
    trainer = build_trainer(windows_per_update=6, stop_at=6)
    trainer.run()
    assert refused(trainer) == [5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_update_changes_no_weight_no_moment_and_no_average(
    build_trainer, monkeypatch, kind
):
    install(monkeypatch, {7: kind})
    before, after, later = (build_trainer(stop_at=stop) for stop in (6, 7, 8))
    for trainer in (before, after, later):
        trainer.run()
    assert differing(tensors(before), tensors(after)) == set()
    assert len(differing(tensors(after), tensors(later))) == len(tensors(after))


def test_a_refused_update_keeps_its_number_and_spends_its_windows(build_trainer, monkeypatch):
    clean = build_trainer()
    clean.run()
    install(monkeypatch, {7: "nan loss"})
    trainer = build_trainer()
    trainer.run()
    for key in ("update", "epoch", "num_frames", "learning_rate"):
        assert [line[key] for line in trainer.updates] == [line[key] for line in clean.updates]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_right_after_a_resume_is_judged_by_what_was_before_it(
    build_trainer, monkeypatch, tmp_path, kind
):
    run_on(build_trainer, tmp_path, 6)
    install(monkeypatch, {7: kind})
    trainer = run_on(build_trainer, tmp_path, 2)
    assert refused(trainer) == [7]
    assert len(trainer.stability.state()["losses"]) == 7


def test_a_spike_of_the_first_gradient_is_clipped(build_trainer, monkeypatch):
    install(monkeypatch, {1: "gradient spike"})
    trainer = build_trainer(stop_at=1)
    trainer.run()
    (line,) = trainer.updates
    assert line["grad_norm"] > 100.0 * line["grad_norm_clipped"]
    assert line["grad_norm_clipped"] == trainer.config.clip_norm


def test_every_refusal_is_a_line_with_its_reason(build_trainer, monkeypatch):
    install(monkeypatch, {3: "nan loss", 6: "spike", 9: "one inf"})
    trainer = build_trainer()
    trainer.run()
    said = [json.loads(json.dumps(event.line(), allow_nan=False)) for event in trainer.events]
    lines = [line for line in said if line["event"] == "skip"]
    assert [line["update"] for line in lines] == [3, 6, 9]
    assert "loss is nan" in lines[0]["reason"]
    assert "more than" in lines[1]["reason"]
    assert lines[2]["grad_norm"] in {"inf", "nan"}
    for line in trainer.updates:
        json.dumps(line, allow_nan=False)


def test_a_burst_leads_back_to_one_checkpoint_as_a_whole(build_trainer, monkeypatch, tmp_path):
    """Weights, moments and average come from the same update; mixed sets broke earlier rollbacks."""
    good = run_on(build_trainer, tmp_path / "good", 6)
    clean = build_trainer()
    clean.run()
    install(monkeypatch, dict.fromkeys((7, 8, 9), "nan loss"))
    trainer = run_on(build_trainer, tmp_path / "bad", 9)
    assert differing(tensors(trainer), tensors(good)) == set()
    assert [(event.name, event.update) for event in trainer.events] == [
        ("skip", 7),
        ("skip", 8),
        ("skip", 9),
        ("rollback", 9),
    ]
    assert trainer.events[-1].values == {"to": 6, "learning_rate_scale": 0.5}
    after = run_on(build_trainer, tmp_path / "bad", 3)
    for line, scheduled in zip(after.updates, clean.updates[9:], strict=True):
        assert line["learning_rate"] == 0.5 * scheduled["learning_rate"]
    assert refused(after) == []


def test_a_checkpoint_written_in_a_burst_is_not_gone_back_to(build_trainer, monkeypatch, tmp_path):
    install(monkeypatch, dict.fromkeys((8, 9, 10), "one nan"))
    trainer = build_trainer(tmp_path)
    trainer.run()
    assert not folder(tmp_path, 9).state["stability"]["is_healthy"]
    assert trainer.events[-1].values["to"] == 6


def test_going_back_again_goes_further_back(build_trainer, monkeypatch, tmp_path):
    install(monkeypatch, dict.fromkeys(range(7, 13), "inf loss"))
    trainer = build_trainer(tmp_path, updates=16)
    trainer.run()
    rollbacks = [event.values["to"] for event in trainer.events if event.name == "rollback"]
    assert rollbacks == [6, 3]
    assert trainer.stability.learning_rate_scale == 0.25


@pytest.mark.parametrize("checkpoint_every", [1, 5])
def test_weights_that_went_bad_are_replaced_by_good_ones(build_trainer, tmp_path, checkpoint_every):
    """What a flipped bit in memory does: every later loss is NaN until the run goes back."""
    trainer = build_trainer(tmp_path, checkpoint_every=checkpoint_every)

    def poison(line):
        trainer.updates.append(line)
        if line["update"] == 7:
            with torch.no_grad():
                trainer.state.model.head_norm.weight[0] = math.nan

    trainer.callbacks = replace(trainer.callbacks, on_update=poison)
    assert trainer.run().is_complete
    assert refused(trainer) == [8, 9, 10]
    assert trainer.stability.rollbacks == 1
    assert all(bool(value.isfinite().all()) for value in tensors(trainer).values())


def test_endless_faults_end_in_an_error_and_a_good_checkpoint(build_trainer, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        install(patch, dict.fromkeys(range(5, 40), "nan loss"))
        trainer = build_trainer(tmp_path, updates=40)
        with pytest.raises(DivergenceError, match="update 13 is refused and the run went back 2"):
            trainer.run()
    assert refused(trainer) == list(range(5, 14))
    checkpoint, warnings = latest_checkpoint(tmp_path / "checkpoints")
    assert warnings == ()
    for name in ("model", "ema", "optimizer"):
        assert all(bool(t.isfinite().all()) for t in checkpoint.read_tensors(name).values())
    again = build_trainer(tmp_path, updates=40)
    again.resume()
    assert again.run().is_complete
    assert refused(again) == []


def test_a_run_that_keeps_nothing_cannot_go_back_and_says_so(build_trainer, monkeypatch):
    install(monkeypatch, dict.fromkeys(range(5, 13), "nan loss"))
    trainer = build_trainer()
    with pytest.raises(DivergenceError, match="update 7 is refused and the run went back 0 times"):
        trainer.run()


def test_an_overflow_of_float16_only_halves_the_scale(build_trainer, monkeypatch):
    install(monkeypatch, {4: "one inf", 5: "one inf", 6: "one inf", 7: "one inf"})
    trainer = build_trainer(compute={"precision": "fp16"}, dropout=0.0)
    before = trainer.gradients.compute.loss_scale
    trainer.run()
    assert refused(trainer) == [4, 5, 6, 7]
    assert trainer.gradients.compute.loss_scale == before / 16
    assert trainer.stability.rollbacks == 0
    assert trainer.stability.skip_frac == 0.0


def test_a_longer_context_is_no_fault(build_trainer):
    trainer = build_trainer(context=((1, 2), (5, 4), (9, 8)), updates=16)
    trainer.run()
    assert refused(trainer) == []
    assert trainer.events == []


@pytest.mark.parametrize("seed", range(4))
def test_any_scatter_of_faults_is_refused_and_nothing_else(build_trainer, monkeypatch, seed):
    """Drawn anew for each seed: which updates, which faults; never three in a row, few enough."""
    draw = random.Random(seed)
    at = sorted(draw.sample(range(2, 25), 4))
    plan = {update: draw.choice(KINDS) for update in at if update % 3}
    install(monkeypatch, plan, part=draw.randrange(2))
    trainer = build_trainer(updates=24)
    assert plan
    trainer.run()
    assert refused(trainer) == sorted(plan)
