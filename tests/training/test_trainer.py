"""Laws of the trainer: what an update is, what it never does, and what it says."""

import math

import pytest
import torch

from melodac.errors import ConfigError, DivergenceError, NonFiniteError
from melodac.tokens.batches import Batch
from melodac.training.checkpoint import latest_checkpoint
from melodac.training.loss import build_targets, per_codebook_loss
from melodac.training.trainer import Trainer


def weights(trainer):
    return [weight.detach().clone() for weight in trainer.state.model.parameters()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def moments(trainer):
    return list(trainer.state.optimizer.tensors().values())


def test_initial_loss_is_that_of_a_uniform_guess(build_trainer):
    trainer = build_trainer(stop_at=1)
    trainer.run()
    assert trainer.updates[0]["loss"] == pytest.approx(math.log(1024), abs=0.1)


@pytest.mark.parametrize("delay", [(0, 1), (0, 0), (3, 0), "flat"])
def test_loss_falls_under_every_pattern(build_trainer, delay):
    trainer = build_trainer(delay=delay, updates=40, dropout=0.0)
    trainer.run()
    assert trainer.updates[-1]["loss"] < trainer.updates[0]["loss"] - 0.3


def test_every_pattern_trains_on_the_same_number_of_cells(build_trainer):
    counted = set()
    for delay in ((0, 0), (0, 3), (2, 1), "flat"):
        trainer = build_trainer(delay=delay)
        trainer.run()
        counted.add(trainer.updates[-1]["num_frames"])
    assert len(counted) == 1


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulation_equals_one_large_batch(build_trainer, micro_batch):
    """Track 2 has 5 frames of the window's 8, so parts hold unequal numbers of counted cells."""
    whole = build_trainer(dropout=0.0, micro_batch=4)
    parts = build_trainer(dropout=0.0, micro_batch=micro_batch)
    whole.run()
    parts.run()
    for one, other in zip(whole.updates, parts.updates, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_parts_of_an_update_do_hold_unequal_numbers_of_cells(build_trainer):
    trainer = build_trainer()
    parts = [
        part for update in range(1, 13) for part in trainer.gradients.reader.read(update).parts
    ]
    counted = {int(part.counted.sum()) for part in parts}
    assert len(counted) > 1


def test_logged_loss_is_the_loss_of_the_update(build_trainer):
    trainer = build_trainer(stop_at=1, dropout=0.0)
    sums, counts = 0.0, 0
    for part in trainer.gradients.reader.read(trainer.update + 1).parts:
        nats, cells = per_codebook_loss(
            trainer.state.model(part.sequence), part.sequence, part.counted
        )
        sums, counts = sums + nats.detach(), counts + cells
    trainer.run()
    logged = trainer.updates[0]
    for codebook in range(2):
        expected = float(sums[codebook] / counts[codebook])
        assert logged[f"loss_k{codebook}"] == pytest.approx(expected, rel=1e-6)
    assert logged["loss"] == pytest.approx(float(sums.sum() / counts.sum()), rel=1e-6)
    assert logged["num_frames"] == int(counts[0])


def test_special_tokens_are_never_targets(build_trainer):
    trainer = build_trainer(delay=(0, 3))
    for trainer.state.update in range(12):
        for part in trainer.gradients.reader.read(trainer.update + 1).parts:
            assert (part.sequence[~part.counted] >= 1024).any()
            assert (part.sequence[part.counted] < 1024).all()


def test_validation_does_not_disturb_training(build_trainer):
    often, never = build_trainer(validate_every=1), build_trainer(validate_every=12)
    often.run()
    never.run()
    assert len(often.validations) == 12
    assert equal(weights(often), weights(never))


def test_validation_is_the_loss_of_the_averaged_weights_without_dropout(build_trainer, data):
    trainer = build_trainer()
    trainer.run()
    model = trainer.state.average.model.eval()
    nats = cells = 0
    for track in range(2):
        codes = torch.from_numpy(data.validation.codes(track).astype("int64")).T[None]
        full = torch.full((1, 2, 24 + 1), 1025)
        full[..., : codes.shape[-1]] = codes
        for start in range(0, codes.shape[-1], 8):
            window = full[..., start : start + 9]
            counted = torch.arange(start, start + 8)[None] < codes.shape[-1]
            targets = build_targets(Batch(window, counted), trainer.pattern, trainer.state.device)
            found, count = per_codebook_loss(model(targets.sequence), *targets)
            nats, cells = nats + found.detach().sum(), cells + count.sum()
    assert trainer.validations[-1]["loss"] == pytest.approx(float(nats / cells), rel=1e-5)


def test_best_is_the_lowest_validation_and_is_kept(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, validate_every=1, learning_rate=0.05)
    result = trainer.run()
    lowest = min(trainer.validations, key=lambda metrics: metrics["loss"])
    assert result.best == (lowest["update"], lowest["loss"])
    assert latest_checkpoint(tmp_path / "best").checkpoint.update == lowest["update"]


def test_training_leaves_the_global_generator_alone(build_trainer):
    trainer = build_trainer()
    before = torch.get_rng_state()
    trainer.run()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(build_trainer, poison):
    trainer = build_trainer(stop_at=1)
    with torch.no_grad():
        trainer.state.model.head_norm.weight[0] = poison
    before, before_moments = weights(trainer), [m.clone() for m in moments(trainer)]
    average = [w.clone() for w in trainer.state.average.model.parameters()]
    trainer.run()
    assert trainer.updates[0]["is_skipped"]
    assert trainer.updates[0]["loss"] == "nan"
    assert trainer.events[0].name == "skip"
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        for a, b in zip(before, weights(trainer), strict=True)
    )
    assert equal(before_moments, moments(trainer))
    assert equal(average, list(trainer.state.average.model.parameters()))


def test_a_gradient_that_is_not_finite_changes_nothing(build_trainer):
    trainer = build_trainer(stop_at=1)
    trainer.state.model.head.weight.register_hook(lambda grad: grad * math.inf)
    before, before_moments = weights(trainer), [m.clone() for m in moments(trainer)]
    trainer.run()
    assert trainer.updates[0]["is_skipped"]
    assert equal(before, weights(trainer))
    assert equal(before_moments, moments(trainer))


def test_a_run_that_cannot_go_back_ends_where_it_would(build_trainer):
    trainer = build_trainer()
    trainer.state.model.head.weight.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(DivergenceError, match="update 3 is refused"):
        trainer.run()


def test_weights_that_are_not_finite_are_never_saved(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, stop_at=4)
    trainer.run()
    with torch.no_grad():
        trainer.state.model.head.weight[0, 0] = math.nan
    trainer.state.update = 5
    with pytest.raises(NonFiniteError, match=r"head\.weight is not finite after update 5"):
        trainer.run()
    assert latest_checkpoint(tmp_path / "checkpoints").checkpoint.update == 4


def test_gradients_above_the_norm_are_clipped(build_trainer):
    trainer = build_trainer(stop_at=1, clip_norm=1e-3, learning_rate=1e-3)
    seen = []
    trainer.state.optimizer.optimizers[0].register_step_pre_hook(
        lambda *_: seen.append([w.grad.norm() for w in trainer.state.model.parameters()])
    )
    trainer.run()
    assert float(torch.stack(seen[0]).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert trainer.updates[0]["is_clipped"]
    assert trainer.updates[0]["grad_norm"] > 1e-3


def test_a_model_with_another_dropout_is_refused(build_trainer, build_model):
    trainer = build_trainer()
    with pytest.raises(ConfigError, match=r"built with dropout 0\.3, the config says 0\.1"):
        Trainer(
            build_model(0.3),
            trainer.pattern,
            trainer.data,
            config=trainer.config,
            directory=None,
            identity={},
        )
