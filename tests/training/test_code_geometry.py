"""A model that knows its codes is trained, resumed, audited and shared out as any other."""

import pytest
import torch
from torch import nn

from melodac.doctor.diagnosis import Patient, examine
from melodac.errors import CheckpointMismatchError
from melodac.models.code_tables import FIXED_TENSORS
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import build_pattern
from melodac.training.checkpoint import latest_checkpoint, load_weights, open_checkpoint
from melodac.training.guards.start import audit_start
from melodac.training.optimizer import block_matrices, decayed_names
from tests.training.guards.audited import part
from tests.training.ranks import are_equal, largest_difference, newest, run_together, task

WEIGHT = 2e-5
"""Sums taken in another order, as in test_distributed_parity."""


def draw_vectors(seed=3):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([1.0, 0.5]).view(2, 1, 1)
    return sizes * torch.randn(2, 1024, 4, generator=generator)


CODEC = {"embedding": "codec", "vectors": draw_vectors()}
TIED = {"embedding": "tied"}
KINDS = pytest.mark.parametrize("shape", [CODEC, TIED], ids=["codec", "tied"])


@KINDS
def test_a_resumed_run_is_the_run_nobody_stopped(build_trainer, tmp_path, shape):
    build_trainer(tmp_path / "whole", shape=shape).run()
    build_trainer(tmp_path / "parts", stop_at=5, shape=shape).run()
    later = build_trainer(tmp_path / "parts", shape=shape)
    later.resume()
    assert later.update == 5
    later.run()
    assert are_equal(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_a_run_on_other_vectors_is_refused(build_trainer, tmp_path):
    build_trainer(tmp_path, stop_at=3, shape=CODEC).run()
    other = build_trainer(tmp_path, shape=CODEC | {"vectors": draw_vectors(seed=4)})
    with pytest.raises(CheckpointMismatchError, match=r"vectors_sha256: checkpoint '.*', this run"):
        other.resume()


@pytest.mark.parametrize("shape", [{}, TIED], ids=["learned", "tied"])
def test_a_run_of_another_kind_is_refused(build_trainer, tmp_path, shape):
    build_trainer(tmp_path, stop_at=3, shape=CODEC).run()
    with pytest.raises(CheckpointMismatchError, match=r"model\.embedding: checkpoint 'codec'"):
        build_trainer(tmp_path, shape=shape).resume()


def test_a_checkpoint_needs_neither_codec_nor_store(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, shape=CODEC)
    trainer.run()
    checkpoint = latest_checkpoint(tmp_path / "checkpoints").checkpoint
    model = LanguageModel(trainer.state.model.config)
    load_weights(model, checkpoint, "ema")
    sequence = torch.randint(0, 1024, (1, 2, 6))
    assert torch.equal(model.eval()(sequence), trainer.state.average.model(sequence))


def test_vectors_stand_still_and_all_else_moves(build_trainer, tmp_path):
    trainer = build_trainer(tmp_path, shape=CODEC)
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}
    trainer.run()
    still = {
        name
        for name, value in trainer.state.model.state_dict().items()
        if torch.equal(value, before[name])
    }
    assert still == FIXED_TENSORS


def test_the_doctor_takes_vectors_for_no_weights(build_trainer, tmp_path):
    build_trainer(tmp_path, shape=CODEC).run()
    folders = sorted((tmp_path / "checkpoints").iterdir())
    report = examine(Patient([open_checkpoint(folder) for folder in folders], (), ()))
    newest_one = report.snapshots[-1]
    assert newest_one.largest_step
    assert all(newest_one.largest_step.values())
    assert not any("vectors" in name or "leash" in name for name in newest_one.largest_step)


@KINDS
def test_the_audit_finds_a_sound_start(build_model, shape):
    model, pattern = build_model(**shape), build_pattern("musicgen", 2)
    report = audit_start(model, [part(pattern)], pattern)
    assert report.problems == ()
    gradients = {name for name in report.numbers if name.startswith("gradient_norm")}
    assert ("gradient_norm.geometry" in gradients) == (shape is CODEC)


def test_the_audit_finds_a_codebook_whose_head_is_cut_off(build_model):
    model, pattern = build_model(**CODEC), build_pattern("musicgen", 2)

    class Cut(type(model.head)):
        def forward(self, hidden, tables):
            logits = super().forward(hidden, tables).clone()
            logits[..., 1024:] = logits[..., 1024:].detach()
            return logits

    model.head.__class__ = Cut
    problems = " ".join(audit_start(model, [part(pattern)], pattern).problems)
    assert "the head of codebook 1 receives no gradient" in problems


def test_vectors_that_were_never_given_are_found_before_update_0(build_model):
    config = build_model(**CODEC).config
    pattern = build_pattern("musicgen", 2)
    problems = audit_start(LanguageModel(config), [part(pattern)], pattern).problems
    assert any("the first loss is nan nats per code" in problem for problem in problems)


def test_muon_leaves_tables_and_what_makes_them_to_adamw(build_model):
    names = block_matrices(build_model(**CODEC))
    assert names
    assert all(name.startswith("blocks.") for name in names)


def test_weight_decay_pulls_on_matrices_and_on_no_row_of_a_code(build_model):
    names = decayed_names(build_model(**CODEC))
    assert {"geometry.embedding", "geometry.head"} <= names
    assert not names & {"embedding.weight", "head.bias"}


def test_buffers_are_no_parameters(build_model):
    model = build_model(**CODEC)
    assert not any(isinstance(buffer, nn.Parameter) for buffer in model.buffers())
    assert {"geometry.vectors", "geometry.leash"} <= set(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@KINDS
def test_two_processes_equal_one(build_trainer, tmp_path, shape, sharding):
    (alone,), (first, second) = run_together(
        task(build_trainer(tmp_path / "1", micro_batch=1, shape=shape)),
        task(build_trainer(tmp_path / "2", micro_batch=1, shape=shape), 2, sharding),
    )
    assert alone.error == first.error == second.error == ""
    assert [u["loss"] for u in first.updates] == [u["loss"] for u in second.updates]
    for a, b in zip(first.updates, alone.updates, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=5e-6)
    assert largest_difference(newest(tmp_path / "1"), newest(tmp_path / "2")) < WEIGHT
