"""Attention equals the loop, positions are relative, and the logits start at unit size."""

import pytest
import torch
from torch.testing import assert_close

from melodac.models.attention import attend
from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.models.layers import build_rotary_table, rotate
from tests.reference import attention as reference

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_a_whole_sequence_attends_as_the_loop(num_kv_heads):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 7, 8)
    key, value = torch.randn(2, 2, num_kv_heads, 7, 8)
    expected = reference.attend(query, key, value)
    assert_close(attend(query, key, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_one_step_on_a_past_attends_as_the_loop(num_kv_heads):
    torch.manual_seed(0)
    query = torch.randn(2, 4, 1, 8)
    key, value = torch.randn(2, 2, num_kv_heads, 7, 8)
    expected = reference.attend(query, key, value)
    assert_close(attend(query, key, value), expected, rtol=1e-5, atol=1e-6)


def test_rotation_is_the_complex_one():
    torch.manual_seed(0)
    heads = torch.randn(1, 9, 2, 8)
    table = build_rotary_table(9, head_dim=8, base=100.0, device=CPU)
    expected = torch.tensor([
        [reference.rotate(head.tolist(), step, 100.0) for head in heads[0, step]]
        for step in range(9)
    ])
    assert_close(rotate(heads, table)[0], expected, rtol=1e-5, atol=1e-6)


def test_products_depend_on_the_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16)
    table = build_rotary_table(300, head_dim=16, base=10_000.0, device=CPU)

    def product(query_step, key_step):
        turned = rotate(query, table.steps(query_step, query_step + 1))
        return (turned * rotate(key, table.steps(key_step, key_step + 1))).sum()

    near = torch.stack([product(5, 0), product(47, 42), product(290, 285)])
    # float32 angles near 300 radians are exact to 3e-5
    assert_close(near, near[:1].expand(3), rtol=0, atol=1e-4 * float(near[0].abs()) + 1e-4)
    assert abs(product(5, 0) - product(6, 0)) > 1e-3


def test_rotation_keeps_lengths():
    torch.manual_seed(0)
    heads = torch.randn(2, 9, 3, 8)
    table = build_rotary_table(9, head_dim=8, base=10_000.0, device=CPU)
    assert_close(rotate(heads, table).norm(dim=-1), heads.norm(dim=-1), rtol=1e-5, atol=0)


@torch.no_grad()
def test_attention_logits_start_at_unit_size():
    torch.manual_seed(0)
    model = LanguageModel(build_config("nano", num_codebooks=9, dropout=0.0))
    table = build_rotary_table(64, head_dim=32, base=10_000.0, device=CPU)
    deviations = []

    def measure(module, inputs):
        query, key, _ = module.project(inputs[0], table)
        scores = query @ key.repeat_interleave(3, dim=1).transpose(-1, -2) / 32**0.5
        deviations.append(float(scores.std()))

    for block in model.blocks:
        block.attention.register_forward_pre_hook(measure)
    model(torch.randint(0, 1024, (2, 9, 64)))
    assert len(deviations) == 4
    assert all(0.8 < deviation < 1.25 for deviation in deviations), deviations
