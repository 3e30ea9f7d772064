"""Laws of Muon: which matrices, part by part, and how large a step."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Muon

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.training.optimizer import block_matrices, build_muon, build_optimizer, fused_rows
from tests.reference import muon as reference


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(
        LanguageModelConfig(
            num_codebooks=2,
            dim=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            ff_dim=48,
            dropout=0.0,
            rope_base=10_000.0,
        )
    )


def fill_gradients(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def parts_of(model):
    """Each matrix of the blocks, cut where it is fused: name, part, rows."""
    rows = fused_rows(model)
    for name, weight in model.named_parameters():
        if name in block_matrices(model):
            start = 0
            for part in rows.get(weight, (weight.shape[0],)):
                yield name, slice(start, start + part)
                start += part


def build(model, rate=0.01, decay=0.1):
    return build_muon(model, block_matrices(model), learning_rate=rate, weight_decay=decay)


def snapshot(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_every_matrix_of_the_blocks_and_nothing_else_is_orthogonalised(model):
    assert {name.removeprefix("blocks.0.") for name in block_matrices(model) if ".0." in name} == {
        "attention.query_key_value.weight",
        "attention.output.weight",
        "feedforward.gate_up.weight",
        "feedforward.down.weight",
    }
    assert all(name.startswith("blocks.") for name in block_matrices(model))


def test_parts_of_fused_matrices_fill_them_and_are_what_the_model_reads(model):
    attention, feedforward = model.blocks[0].attention, model.blocks[0].feedforward
    rows = fused_rows(model)
    assert rows[attention.query_key_value.weight] == (32, 16, 16)
    assert rows[feedforward.gate_up.weight] == (48, 48)
    assert all(sum(parts) == weight.shape[0] for weight, parts in rows.items())


def test_a_part_of_a_fused_matrix_moves_as_a_matrix_of_its_own(model):
    alone = {
        (name, rows.start): nn.Parameter(model.get_parameter(name).detach()[rows].clone())
        for name, rows in parts_of(model)
    }
    separate = Muon(
        alone.values(), lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    together = build(model)
    for seed in range(3):
        fill_gradients(model, seed)
        for name, rows in parts_of(model):
            alone[name, rows.start].grad = model.get_parameter(name).grad[rows].clone()
        together.step()
        separate.step()
    for name, rows in parts_of(model):
        assert torch.equal(model.get_parameter(name)[rows], alone[name, rows.start])


def test_a_step_is_close_to_the_papers(model):
    before, optimizer = snapshot(model), build(model)
    expected = {key: value.numpy().astype(np.float64) for key, value in before.items()}
    buffers = {key: np.zeros_like(value) for key, value in expected.items()}
    for seed in range(3):
        fill_gradients(model, seed)
        optimizer.step()
        for name, rows in parts_of(model):
            gradient = model.get_parameter(name).grad.numpy().astype(np.float64)
            expected[name][rows], buffers[name][rows] = reference.step(
                expected[name][rows], gradient[rows], buffers[name][rows], rate=0.01, decay=0.1
            )
    for name, rows in parts_of(model):
        moved = (model.get_parameter(name).detach() - before[name])[rows].numpy().ravel()
        wanted = (expected[name] - before[name].numpy())[rows].ravel()
        cosine = moved @ wanted / np.linalg.norm(moved) / np.linalg.norm(wanted)
        # five steps of the polynomial leave singular values between 0.7 and 1.2
        assert cosine > 0.97
        assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(wanted), rel=0.2)


def test_every_part_moves_by_a_fifth_of_the_rate_whatever_its_shape_or_gradient(model):
    """So that one learning rate serves Muon and AdamW."""
    before, optimizer = snapshot(model), build(model, rate=0.01, decay=0.0)
    fill_gradients(model)
    for factor, weight in enumerate(model.parameters()):
        weight.grad *= 10.0 ** (factor % 7 - 3)
    optimizer.step()
    for name, rows in parts_of(model):
        moved = (model.get_parameter(name).detach() - before[name])[rows]
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.2)


def test_a_step_goes_downhill(model):
    before, optimizer = snapshot(model), build(model)
    fill_gradients(model)
    optimizer.step()
    for name, rows in parts_of(model):
        moved = (model.get_parameter(name).detach() - before[name])[rows]
        assert float((moved * model.get_parameter(name).grad[rows]).sum()) < 0


def test_a_gradient_of_zero_moves_nothing(model):
    before, optimizer = snapshot(model), build(model, decay=0.0)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_what_is_no_matrix_of_a_block_moves_as_under_adamw(model, train_config):
    start = snapshot(model)

    def run(kind):
        model.load_state_dict(start)
        optimizer = build_optimizer(model, train_config.model_copy(update={"optimizer": kind}))
        for seed in range(3):
            fill_gradients(model, seed)
            optimizer.step()
        return snapshot(model)

    by_muon, by_adamw = run("muon"), run("adamw")
    changed = {name for name in start if not torch.equal(by_muon[name], by_adamw[name])}
    assert changed == block_matrices(model)
