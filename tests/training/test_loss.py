"""Laws of the loss: what counts, what does not, and how parts add up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import TrainingError
from melodac.tokens.batches import counted_cells, to_sequence
from melodac.tokens.delay import build_pattern
from melodac.tokens.vocabulary import BOS, CODEBOOK_SIZE, PAD
from melodac.training.loss import bits_per_second, codebook_means, per_codebook_loss, total_loss


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 7, 11, generator=generator)
    sequence = torch.randint(0, 11, (3, 2, 7), generator=generator)
    counted = torch.rand(3, 2, 7, generator=generator) < 0.7
    return logits, torch.where(counted, sequence, 12), counted


def test_loss_matches_the_loop(cells):
    logits, sequence, counted = cells
    nats, counts = [0.0, 0.0], [0, 0]
    for b, k, s in counted.nonzero().tolist():
        nats[k] -= math.log(logits[b, k, s].softmax(0)[sequence[b, k, s]].item())
        counts[k] += 1
    found_nats, found_counts = per_codebook_loss(logits, sequence, counted)
    assert found_counts.tolist() == counts
    torch.testing.assert_close(found_nats, torch.tensor(nats), rtol=1e-5, atol=1e-5)


def test_uncounted_logits_do_not_change_the_loss(cells):
    logits, sequence, counted = cells
    poisoned = torch.where(counted[..., None], logits, 1e4 * torch.randn_like(logits))
    assert torch.equal(
        per_codebook_loss(logits, sequence, counted)[0],
        per_codebook_loss(poisoned, sequence, counted)[0],
    )


def test_uncounted_logits_receive_no_gradient(cells):
    logits, sequence, counted = cells
    logits.requires_grad_()
    total_loss(*per_codebook_loss(logits, sequence, counted)).backward()
    assert logits.grad[~counted].count_nonzero() == 0
    assert logits.grad[counted].count_nonzero() > 0


@pytest.mark.parametrize("delay", ["musicgen", "parallel", "reverse", "flat", [3, 0, 5]], ids=str)
@settings(max_examples=20)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))
def test_counted_cells_are_codes_and_as_many_as_counted_frames(delay, lengths):
    """Whatever the delay and however short the window: no special, no frame twice, none lost."""
    pattern = build_pattern(delay, num_codebooks=3)
    frames = torch.arange(6 + pattern.max_delay)
    real = frames < torch.tensor(lengths)[:, None]
    codes = torch.where(real[:, None], 7, PAD).expand(-1, 3, -1)
    sequence = to_sequence(codes, pattern, frames=6)
    counted = counted_cells(real[:, :6], pattern)
    assert counted.sum(dim=(0, 2)).tolist() == [sum(lengths)] * 3
    assert bool((sequence[counted] == 7).all())


@pytest.mark.parametrize("special", [PAD, BOS, -1])
def test_a_counted_special_is_refused_and_never_taken_for_a_code(special):
    """Padding of -1 clamped to code 0 once trained code 0 (R16)."""
    logits = torch.zeros(1, 1, 1, CODEBOOK_SIZE)
    sequence = torch.tensor([[[special]]])
    with pytest.raises(IndexError, match="out of bounds"):
        per_codebook_loss(logits, sequence, torch.ones_like(sequence, dtype=torch.bool))


def test_sums_of_parts_equal_the_whole(cells):
    parts = [per_codebook_loss(*(cell[b : b + 1] for cell in cells)) for b in range(3)]
    whole_nats, whole_counts = per_codebook_loss(*cells)
    torch.testing.assert_close(sum(nats for nats, _ in parts), whole_nats, rtol=1e-6, atol=1e-5)
    assert torch.equal(sum(counts for _, counts in parts), whole_counts)


def test_half_precision_logits_are_summed_in_full_precision(cells):
    logits, sequence, counted = cells
    nats, _ = per_codebook_loss(logits.bfloat16(), sequence, counted)
    assert nats.dtype == torch.float32


def test_a_loss_over_no_cell_is_refused(cells):
    logits, sequence, counted = cells
    with pytest.raises(TrainingError, match="no cell is counted"):
        total_loss(*per_codebook_loss(logits, sequence, torch.zeros_like(counted)))


def test_a_codebook_without_cells_has_no_mean(cells):
    logits, sequence, counted = cells
    counted = counted.clone()
    counted[:, 1] = False
    means = codebook_means(*per_codebook_loss(logits, sequence, counted))
    assert means[0] > 0
    assert math.isnan(means[1])


def test_uniform_prediction_costs_ten_bits_a_code():
    logits, sequence = torch.zeros(1, 9, 5, 1024), torch.randint(0, 1024, (1, 9, 5))
    means = codebook_means(*per_codebook_loss(logits, sequence, sequence < 1024))
    assert bits_per_second(means, 86.1328125) == pytest.approx(7751.95, abs=0.01)
