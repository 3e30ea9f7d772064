"""The training quantiser is DAC's, and its care keeps codes in use."""

import pytest
import torch

from melodac.codec.architecture import build_model
from melodac.codec.training.quantizer import (
    Codebooks,
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
    total, codes, projected, commitment, _ = quantizer(x)
    ours = quantize(quantizer, x, torch.full((4,), 3))
    torch.testing.assert_close(ours.latents, total)
    assert torch.equal(ours.codes, codes)
    torch.testing.assert_close(torch.cat(ours.projected, 1), projected)
    torch.testing.assert_close(ours.commitment_loss, commitment)


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


def test_codebooks_become_the_means_of_their_latents(quantizer, generator):
    books, x = Codebooks(3, 32, 4), latents(generator)
    books.start(quantizer)
    quantized = quantize(quantizer, x, torch.full((4,), 3))
    for _ in range(2000):
        books.follow(quantizer, quantized)
    for index, stage in enumerate(quantizer.quantizers):
        queries = quantized.projected[index].transpose(1, 2).flatten(0, 1)
        codes = quantized.codes[:, index].flatten()
        for code in codes.unique().tolist():
            expected = queries[codes == code].mean(0)
            torch.testing.assert_close(stage.codebook.weight[code], expected, rtol=1e-3, atol=1e-4)


def test_following_at_first_keeps_the_codebooks(quantizer, generator):
    books, before = Codebooks(3, 32, 4), [s.codebook.weight.clone() for s in quantizer.quantizers]
    books.start(quantizer)
    x = torch.zeros(1, 12, 1)  # one latent, so 31 codes of each stage see nothing
    quantized = quantize(quantizer, x, torch.tensor([3]))
    books.follow(quantizer, quantized)
    for index, stage in enumerate(quantizer.quantizers):
        unused = torch.arange(32) != quantized.codes[0, index, 0]
        torch.testing.assert_close(stage.codebook.weight[unused], before[index][unused])


def test_codes_out_of_use_move_to_recent_latents_and_used_ones_stay(quantizer, generator):
    books, x = Codebooks(3, 32, 4), latents(generator, batch=1, frames=5)
    books.start(quantizer)
    quantized = quantize(quantizer, x, torch.tensor([3]))
    for _ in range(1000):
        books.follow(quantizer, quantized)
    before = [stage.codebook.weight.clone() for stage in quantizer.quantizers]
    averages = [weight.clone() for weight in before]
    used = [set(codes.tolist()) for codes in quantized.codes[0]]
    revived = books.revive(quantizer, averages, generator)
    assert revived == sum(32 - len(codes) for codes in used)
    for index, stage in enumerate(quantizer.quantizers):
        moved = (stage.codebook.weight != before[index]).any(1).nonzero().flatten().tolist()
        assert not used[index] & set(moved)
        assert torch.equal(averages[index], stage.codebook.weight)
