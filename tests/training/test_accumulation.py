"""An update is one update, however it is cut: losses, gradients, rates and counts of whole runs."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from melodac.errors import CheckpointMismatchError
from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.training.data import TrainingData
from melodac.training.schedule import context_frames_at, learning_rate_at
from melodac.training.seeding import seeded
from melodac.training.trainer import Callbacks, Trainer

STAGES = ((1, 4), (4, 8), (9, 6))
PLAIN = {"dropout": 0.0}
RUNS = {
    "cosine": {"schedule": "cosine"},
    "linear": {"schedule": "linear"},
    "constant": {"schedule": "constant"},
    "wsd": {"schedule": "wsd", "decay_updates": 4},
    "stages": {"context": STAGES},
    "muon": {"optimizer": "muon"},
    "muon in stages": {"optimizer": "muon", "context": STAGES, "schedule": "linear"},
    "bonuses": {
        "objective": {
            "label_smoothing": 0.1,
            "codebook_weights": "auto",
            "entropy_bonus": 0.1,
            "entropy_updates": 6,
        }
    },
}


@pytest.fixture(params=RUNS)
def changes(request):
    return {**PLAIN, **RUNS[request.param]}


def test_an_update_in_parts_equals_one_large_batch(build_trainer, changes):
    """Track 2 is shorter than a window, so parts hold unequal numbers of counted cells."""
    whole, cut = (build_trainer(micro_batch=size, **changes) for size in (4, 1))
    whole.run()
    cut.run()
    assert len(cut.updates) == len(whole.updates) == whole.config.updates
    for one, other in zip(whole.updates, cut.updates, strict=True):
        assert other["learning_rate"] == one["learning_rate"]
        assert other["num_frames"] == one["num_frames"]
        assert other["epoch"] == one["epoch"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)


def test_gradients_in_parts_are_those_of_one_large_batch(build_trainer, changes):
    whole, cut = (build_trainer(micro_batch=n, **changes) for n in (4, 1))
    for update in (1, 5, 10):
        for trainer in (whole, cut):
            trainer.state.optimizer.zero_grad()
            trainer.gradients.take(update, trainer.gradients.reader.read(update))
        for (name, one), other in zip(
            whole.state.model.named_parameters(), cut.state.model.parameters(), strict=True
        ):
            assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_parts_of_an_update_do_hold_unequal_numbers_of_cells(build_trainer):
    trainer = build_trainer(micro_batch=1)
    counted = [
        int(part.counted.sum())
        for u in range(1, 13)
        for part in trainer.gradients.reader.read(u).parts
    ]
    assert len(set(counted)) > 1


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_constant_loss_is_logged_as_it_is_whatever_the_parts(build_trainer, parts):
    """A model that knows nothing loses ln 1024 a code, not that times the parts."""
    trainer = build_trainer(micro_batch=4 // parts, learning_rate=1e-30, **PLAIN)
    with torch.no_grad():
        trainer.state.model.head.weight.zero_()
    trainer.run()
    for line in trainer.updates:
        for key in ("loss", "loss_k0", "loss_k1"):
            assert line[key] == pytest.approx(np.log(1024), rel=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_an_update_of_the_optimizer_is_an_update_of_the_run(build_trainer, micro_batch):
    """Over epochs that end inside updates: none is lost, none is extra, no gradient is carried."""
    trainer = build_trainer(micro_batch=micro_batch)
    steps = []
    for optimizer in trainer.state.optimizer.optimizers:
        optimizer.register_step_pre_hook(lambda *_: steps.append(trainer.update + 1))
    trainer.run()
    assert steps == [line["update"] for line in trainer.updates] == list(range(1, 13))
    assert trainer.epoch > 3
    assert all(weight.grad is None for weight in trainer.state.model.parameters())
    moments = trainer.state.optimizer.tensors()
    assert {int(value) for name, value in moments.items() if name.startswith("step/")} == {12}


def test_no_gradient_reaches_an_update_that_did_not_compute_it(build_trainer):
    trainer = build_trainer(micro_batch=1)
    leftovers = []
    trainer.state.model.register_forward_pre_hook(lambda *_: leftovers.append(first_gradient()))
    weights = list(trainer.state.model.parameters())

    def first_gradient():
        return (trainer.update, any(weight.grad is not None for weight in weights))

    trainer.run()
    seen = {}
    for update, has_gradient in leftovers:
        seen.setdefault(update, []).append(has_gradient)
    assert all(found[0] is False for found in seen.values())


def test_the_rate_of_each_update_is_the_one_planned(build_trainer, changes):
    """In updates: that each is taken in parts has no say in it."""
    trainer = build_trainer(micro_batch=1, **changes)
    used = []
    for optimizer in trainer.state.optimizer.optimizers:
        optimizer.register_step_pre_hook(lambda part, *_: used.append(part.param_groups[0]["lr"]))
    trainer.run()
    planned = [learning_rate_at(update, trainer.config) for update in range(1, 13)]
    assert [line["learning_rate"] for line in trainer.updates] == planned
    assert used == [rate for rate in planned for _ in trainer.state.optimizer.optimizers]


def test_each_stage_trains_on_windows_of_its_length(build_trainer):
    trainer = build_trainer(context=STAGES, delay=(0, 3))
    frames = 0
    for update in range(1, 13):
        read = trainer.gradients.reader.read(update)
        expected = context_frames_at(update, trainer.config, 8)
        assert {part.sequence.shape[-1] for part in read.parts} == {expected + 3}
        frames += int(trainer.gradients.reader.order.take(update).table.num_frames.sum())
    trainer.run()
    assert trainer.updates[-1]["num_frames"] == frames


def test_every_validation_says_how_much_music_was_read(build_trainer):
    trainer = build_trainer()
    trainer.run()
    last = trainer.validations[-1]
    assert trainer.epoch > 3
    assert last["frames_read_share"] == 1.0
    assert 0 < last["windows_distinct"] <= last["windows_read"]


def losses(trainer):
    return [(line["update"], line["loss"], line["learning_rate"]) for line in trainer.updates]


@pytest.mark.parametrize(
    ("optimizer", "stop_at"),
    [("adamw", 2), ("adamw", 3), ("adamw", 5), ("adamw", 8), ("muon", 4), ("muon", 9)],
)
def test_a_run_resumed_inside_any_stage_is_the_run_that_never_stopped(
    build_trainer, tmp_path, optimizer, stop_at
):
    changes = {"context": STAGES, "optimizer": optimizer, "schedule": "wsd", "decay_updates": 5}
    whole = build_trainer(**changes)
    whole.run()
    first = build_trainer(tmp_path, stop_at=stop_at, **changes)
    first.run()
    second = build_trainer(tmp_path, **changes)
    second.resume()
    second.run()
    assert losses(first) + losses(second) == losses(whole)
    for part in ("model", "average"):
        one, other = (getattr(trainer.state, part) for trainer in (whole, second))
        one, other = (getattr(x, "model", x).state_dict() for x in (one, other))
        assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = whole.state.optimizer.tensors(), second.state.optimizer.tensors()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 24},
        {"schedule": "linear"},
        {"warmup_updates": 3},
        {"context": ((1, 4), (6, 8))},
        {"optimizer": "muon"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_horizon_is_refused_at_a_resume(build_trainer, tmp_path, changes):
    """A run made longer would rise again where an old schedule had already come down."""
    build_trainer(tmp_path, stop_at=3).run()
    with pytest.raises(CheckpointMismatchError, match=rf"train\.{next(iter(changes))}"):
        build_trainer(tmp_path, **changes).resume()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon"},
        {"learning_rate": 2e-2},
        {"schedule": "linear"},
        {"min_learning_rate_ratio": 0.5},
        {"warmup_updates": 3},
        {"schedule": "wsd", "decay_updates": 3},
        {"weight_decay": 0.2},
        {"beta1": 0.8},
        {"beta2": 0.9},
        {"clip_norm": 0.01},
        {"ema_decay": 0.1},
        {"dropout": 0.3},
        {"context": ((1, 4),)},
        {"windows_per_update": 2},
        {"seed": 6},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_every_key_of_the_optimisation_changes_the_run(build_trainer, changes):
    """A key that is accepted and ignored looks the same as one that works."""

    def average(**changes):
        trainer = build_trainer(**{"updates": 6, **changes})
        trainer.run()
        return torch.cat([w.flatten() for w in trainer.state.average.model.parameters()])

    assert not torch.equal(average(), average(**changes))


def test_a_run_that_stops_between_updates_has_taken_whole_ones(build_trainer):
    trainer = build_trainer(micro_batch=1)
    trainer.callbacks = Callbacks(should_stop=lambda: trainer.update == 5)
    result = trainer.run()
    assert (result.update, result.is_complete) == (5, False)


def test_one_thread_and_two_train_the_same_weights(train_config):
    """At the size of the default model: smaller matrices never leave the first thread.

    On CPUs with AVX-512 this needs MKL_CBWR, which `pipeline.processes.environment` sets.
    """
    draw = np.random.default_rng(0)
    tracks = array_of_tracks([("t0", draw.integers(0, 1024, (400, 9)).astype(np.uint16))])
    pattern = build_pattern("musicgen", 9)
    config = train_config.model_copy(
        update={"updates": 2, "windows_per_update": 2, "micro_batch": 2, "warmup_updates": 1}
    )

    def train(threads):
        torch.set_num_threads(threads)
        with seeded(0, "initialisation"):
            model = LanguageModel(build_config("nano", num_codebooks=9, dropout=config.dropout))
        data = TrainingData(tracks, tracks, 256)
        Trainer(model, pattern, data, config=config, directory=None, identity={}).run()
        return model.state_dict()

    before = torch.get_num_threads()
    try:
        one, two = train(1), train(2)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], two[name]) for name in one)
