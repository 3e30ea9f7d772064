"""Laws of variety: what is counted, beside what, and what its numbers can be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melodac.errors import NonFiniteError, TrainingError
from melodac.tokens.vocabulary import CODEBOOK_SIZE, PAD
from melodac.training.guards.variety import count_use, measure_predictions


def build_cells(seed=0, positions=40, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(2, 3, positions, CODEBOOK_SIZE, generator=generator)
    sequence = torch.randint(0, CODEBOOK_SIZE, (2, 3, positions), generator=generator)
    counted = torch.rand(2, 3, positions, generator=generator) < 0.7
    return logits, torch.where(counted, sequence, PAD), counted


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), num_codes=st.sampled_from([1, 3, 1024]))
def test_use_matches_the_loop(seed, num_codes):
    generator = np.random.default_rng(seed)
    codes = torch.as_tensor(generator.integers(0, num_codes, (2, 3, 11)))
    counted = torch.as_tensor(generator.random((2, 3, 11)) < 0.5)
    found = count_use(codes, counted)
    for k in range(3):
        chosen = [
            int(c)
            for b in range(2)
            for c, used in zip(codes[b, k], counted[b, k], strict=True)
            if used
        ]
        shares = [chosen.count(code) / len(chosen) for code in set(chosen)]
        assert found.positions[k] == len(chosen)
        assert found.distinct[k] == len(set(chosen))
        entropy = -sum(share * math.log(share) for share in shares)
        assert found.entropy_nats[k] == pytest.approx(entropy, abs=1e-12)


def test_prediction_entropy_matches_the_loop():
    logits, sequence, counted = build_cells()
    found = measure_predictions(logits, sequence, counted)
    for k in range(3):
        p = logits[:, k][counted[:, k]].double().softmax(-1)
        assert found.entropy_nats[k] == pytest.approx(
            float(-(p * p.log()).sum(-1).mean()), rel=1e-5
        )


@settings(max_examples=20)
@given(seed=st.integers(0, 100), size=st.sampled_from([0.0, 1e-3, 1.0, 100.0, 1e30]))
def test_entropy_lies_between_0_and_ln_v(seed, size):
    found = measure_predictions(*build_cells(seed, positions=5, size=size))
    for entropy in (*found.entropy_nats, *found.sampled.entropy_nats, *found.truth.entropy_nats):
        assert 0.0 <= entropy <= math.log(CODEBOOK_SIZE)


def test_uniform_predictions_have_the_entropy_of_all_codes():
    found = measure_predictions(*build_cells(size=0.0))
    assert found.entropy_nats == pytest.approx([math.log(CODEBOOK_SIZE)] * 3, rel=1e-6)


def test_cells_that_are_not_counted_change_nothing():
    logits, sequence, counted = build_cells()
    poisoned = torch.where(counted[..., None], logits, 1e4 * torch.randn_like(logits))
    assert measure_predictions(logits, sequence, counted) == measure_predictions(
        poisoned, torch.where(counted, sequence, 3), counted
    )


def test_every_number_is_taken_over_the_same_cells():
    found = measure_predictions(*build_cells())
    positions = {use.positions for use in (found.truth, found.likeliest, found.sampled)}
    assert positions == {tuple(int(n) for n in build_cells()[2].sum(dim=(0, 2)))}


def test_samples_are_the_same_at_every_look_and_leave_chance_alone():
    state = torch.get_rng_state()
    first, second = (measure_predictions(*build_cells()) for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())


def test_sampling_finds_variety_where_the_likeliest_code_does_not():
    """A model that knows only which code is a little more frequent: sound, yet argmax says one."""
    logits, sequence, counted = build_cells(positions=100, size=0.0)
    logits[..., 7] = 0.1
    found = measure_predictions(logits, sequence, counted)
    for k in range(3):
        assert found.likeliest.distinct[k] == 1
        assert found.sampled.distinct[k] > 0.9 * found.truth.distinct[k]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad):
    logits, sequence, counted = build_cells()
    logits[0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match="a logit on the probe windows is not finite"):
        measure_predictions(logits, sequence, counted)


def test_an_entropy_that_codes_cannot_have_is_refused():
    logits, sequence, counted = build_cells()
    with pytest.raises(TrainingError, match="an entropy of nan nats, which 1024 codes cannot have"):
        measure_predictions(3e38 * logits.sign(), sequence, counted)


def test_a_codebook_without_cells_has_neither_codes_nor_entropy():
    logits, sequence, counted = build_cells()
    counted = counted.clone()
    counted[:, 1] = False
    found = measure_predictions(logits, sequence, counted)
    assert (found.truth.positions[1], found.truth.distinct[1]) == (0, 0)
    assert (found.truth.entropy_nats[1], found.entropy_nats[1]) == (0.0, 0.0)
