"""Laws of the trainer with objective and corruption on: what is followed is never what is said."""

import pytest
import torch

from melodac.training.loss import score_windows, total_loss

EVERYTHING = {
    "objective": {
        "label_smoothing": 0.1,
        "codebook_weights": "auto",
        "entropy_bonus": 0.3,
        "entropy_updates": 9,
        "usage_bonus": 0.2,
    },
    "corruption": {
        "token_noise": 0.3,
        "token_noise_updates": 20,
        "own_codes": 0.4,
        "own_codes_from": 1,
        "own_codes_updates": 6,
    },
}
OBJECTIVE = {"objective": EVERYTHING["objective"]}
STILL = {"learning_rate": 1e-12, "weight_decay": 0.0}


def final_weights(trainer):
    return list(trainer.state.model.state_dict().values())


def test_validation_knows_no_regulariser(build_trainer):
    """Weights that do not move are validated alike, however training reads and weighs (H11)."""
    plain, regularised = build_trainer(**STILL), build_trainer(**STILL, **EVERYTHING)
    plain.run()
    regularised.run()
    assert plain.validations == regularised.validations
    assert plain.state.best == regularised.state.best


def test_reported_training_loss_knows_no_objective(build_trainer):
    """The first update of equal weights costs the same nats and takes another gradient (R5)."""
    plain, regularised = build_trainer(stop_at=1), build_trainer(stop_at=1, **OBJECTIVE)
    plain.run()
    regularised.run()
    one, other = plain.updates[0], regularised.updates[0]
    losses = [key for key in one if key.startswith("loss")]
    assert len(losses) == 3
    assert [one[key] for key in losses] == [other[key] for key in losses]
    assert one["grad_norm"] != other["grad_norm"]


def test_training_and_evaluation_count_the_same_cells(build_trainer, data):
    """One batch, one model, one loss, whoever asks (D5)."""
    trainer = build_trainer(stop_at=1, dropout=0.0, **OBJECTIVE)
    scores = score_windows(
        trainer.state.model,
        trainer.pattern,
        data.train,
        trainer.gradients.reader.order.take(1).table,
        frames=data.window_frames,
        windows_per_batch=3,
    )
    trainer.run()
    evaluated = total_loss(scores.nats.sum(dim=0), scores.counts.sum(dim=0))
    assert trainer.updates[0]["loss"] == pytest.approx(float(evaluated), rel=1e-6)


def test_a_regularised_update_does_not_depend_on_its_cut(build_trainer):
    whole = build_trainer(updates=4, dropout=0.0, micro_batch=4, **EVERYTHING)
    parts = build_trainer(updates=4, dropout=0.0, micro_batch=1, **EVERYTHING)
    whole.run()
    parts.run()
    for one, other in zip(whole.updates, parts.updates, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_regularised_run_resumes_to_the_bit(build_trainer, tmp_path, stop_at):
    whole = build_trainer(**EVERYTHING)
    whole.run()
    build_trainer(tmp_path, stop_at=stop_at, **EVERYTHING).run()
    resumed = build_trainer(tmp_path, **EVERYTHING)
    resumed.resume()
    resumed.run()
    pairs = zip(final_weights(whole), final_weights(resumed), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    "changes",
    [OBJECTIVE, {"corruption": EVERYTHING["corruption"]}],
    ids=["objective", "corruption"],
)
def test_every_regulariser_reaches_the_weights(build_trainer, changes):
    """A key that is read and not used would pass every other law."""
    plain, regularised = build_trainer(updates=3), build_trainer(updates=3, **changes)
    plain.run()
    regularised.run()
    assert not torch.equal(final_weights(plain)[0], final_weights(regularised)[0])


def test_own_codes_and_bonuses_work_in_half_precision(build_trainer):
    trainer = build_trainer(updates=3, compute={"precision": "bf16"}, **EVERYTHING)
    trainer.run()
    plain = build_trainer(updates=3, **EVERYTHING)
    plain.run()
    for half, full in zip(trainer.updates, plain.updates, strict=True):
        assert half["loss"] == pytest.approx(full["loss"], abs=0.05)
