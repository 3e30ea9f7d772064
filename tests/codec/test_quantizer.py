"""The training quantiser is DAC's, and its care keeps codes in use."""

import pytest
import torch

from melodac.codec.architecture import build_model
from melodac.codec.training.quantizer import (
    CodeUse,
    draw_depths,
    initialize_quantizer,
    quantize,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def quantizer(tiny_architecture):
    torch.manual_seed(0)
    return build_model(tiny_architecture).eval().quantizer


def latents(generator, batch=4, frames=50, dims=12) -> torch.Tensor:
    mixing = torch.randn(dims, dims, generator=torch.Generator().manual_seed(9))
    return torch.randn(batch, frames, dims, generator=generator).matmul(mixing).transpose(1, 2)


def test_all_stages_equal_those_of_dac(quantizer, generator):
    x = latents(generator)
    total, codes, projected, commitment, codebook = quantizer(x)
    ours = quantize(quantizer, x, torch.full((4,), 3))
    torch.testing.assert_close(ours.latents, total)
    assert torch.equal(ours.codes, codes)
    torch.testing.assert_close(torch.cat(ours.projected, 1), projected)
    torch.testing.assert_close(ours.commitment_loss, commitment)
    torch.testing.assert_close(ours.codebook_loss, codebook)


def test_a_crop_uses_only_its_depth(quantizer, generator):
    x = latents(generator, batch=3)
    ours = quantize(quantizer, x, torch.tensor([1, 2, 3]))
    for crop, depth in enumerate([1, 2, 3]):
        expected = quantizer(x[crop : crop + 1], n_quantizers=depth)[0]
        torch.testing.assert_close(ours.latents[crop : crop + 1], expected)


def test_gradients_reach_the_latents_straight_through(quantizer, generator):
    x = latents(generator).requires_grad_()
    quantize(quantizer, x, torch.full((4,), 3)).latents.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_depths_are_all_stages_without_dropout(generator):
    assert draw_depths(8, 9, 0.0, generator).tolist() == [9] * 8


def test_depths_with_dropout_stay_in_range(generator):
    depths = draw_depths(2000, 9, 0.5, generator)
    assert depths.min() == 1
    assert depths.max() == 9
    assert 0.4 < (depths < 9).float().mean() < 0.5  # half, a ninth of which draws all stages


@torch.no_grad()
def test_initialised_codebooks_are_in_use_and_reduce_the_error(quantizer, generator):
    x = latents(generator, batch=1, frames=3000)
    initialize_quantizer(quantizer, x[0].t(), generator)
    fresh = latents(generator, batch=1, frames=3000)
    errors = [
        float((quantizer(fresh, n_quantizers=depth)[0] - fresh).square().mean())
        for depth in (1, 2, 3)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * float(fresh.square().mean())
    codes = quantizer(fresh)[1][0]
    assert all(len(book.unique()) > 0.9 * 32 for book in codes)


def test_unused_codes_move_to_recent_latents_and_used_ones_stay(quantizer, generator):
    use = CodeUse(3, 32)
    quantized = quantize(quantizer, latents(generator, batch=1, frames=5), torch.tensor([3]))
    use.record(quantized)
    before = [stage.codebook.weight.clone() for stage in quantizer.quantizers]
    averages = [weight.clone() for weight in before]
    used = [set(codes.tolist()) for codes in quantized.codes[0]]
    revived = use.revive(quantizer, averages, generator)
    assert revived == 3 * 5  # no more than there are latents
    for index, stage in enumerate(quantizer.quantizers):
        moved = (stage.codebook.weight != before[index]).any(1).nonzero().flatten().tolist()
        assert not used[index] & set(moved)
        assert len(moved) == 5
        assert torch.equal(averages[index], stage.codebook.weight)
    assert use.counts.sum() == 0
