"""Draws follow the distribution they claim, truncation is exact, nonsense is refused.

The statistical tests use fixed seeds, so they never flicker; were the seeds free, each would fail a
correct sampler with the probability it states.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.errors import SamplingError
from melodac.sampling.logits import draw, keep_top_k, keep_top_p, sample_codes

DRAWS = 40_000


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(logits, seed=0, *, temperature=1.0, top_k=0, top_p=1.0):
    """Many draws from one distribution: each codebook of one item is one draw."""
    repeated = logits.expand(1, DRAWS, -1)
    return sample_codes(
        repeated,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generators=generators(seed),
    )[0]


def chi_square_excess(codes, probabilities):
    """Chi-square statistic over its critical value at a false-alarm probability of 1e-6.

    The critical value is the Wilson-Hilferty approximation at 4.753 standard deviations.
    """
    possible = probabilities > 0
    counts = torch.bincount(codes, minlength=len(probabilities)).double()
    assert not counts[~possible].any(), "a code of probability 0 was drawn"
    expected = probabilities[possible].double() * len(codes)
    statistic = float(((counts[possible] - expected) ** 2 / expected).sum())
    freedom = int(possible.sum()) - 1
    spread = 2 / (9 * freedom)
    return statistic / (freedom * (1 - spread + 4.753 * math.sqrt(spread)) ** 3)


def some_logits(size=40):
    return torch.randn(size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_softmax(temperature):
    """Chi-square, false-alarm probability 1e-6."""
    logits = some_logits()
    codes = sample(logits, temperature=temperature)
    assert chi_square_excess(codes, (logits / temperature).softmax(-1)) < 1


def test_the_chi_square_test_can_fail():
    codes = sample(some_logits(), temperature=1.1)
    assert chi_square_excess(codes, some_logits().softmax(-1)) > 1


def test_draws_follow_the_truncated_softmax():
    """Chi-square, false-alarm probability 1e-6."""
    logits = some_logits()
    kept = logits.sort(descending=True).indices[:10]
    expected = torch.zeros(40).index_copy(0, kept, logits[kept].softmax(-1))
    assert chi_square_excess(sample(logits, top_k=10), expected) < 1


def test_draws_follow_the_nucleus():
    """Chi-square, false-alarm probability 1e-6."""
    logits = some_logits()
    ordered = logits.softmax(-1).sort(descending=True)
    size, mass = 0, 0.0
    while mass < 0.8:
        mass += float(ordered.values[size])
        size += 1
    kept = ordered.indices[:size]
    expected = torch.zeros(40).index_copy(0, kept, logits[kept].softmax(-1))
    assert chi_square_excess(sample(logits, top_p=0.8), expected) < 1


def test_codebooks_are_drawn_independently():
    """Chi-square on pairs of draws, false-alarm probability 1e-6."""
    logits = some_logits(5)
    codes = sample(logits).view(-1, 2)
    probabilities = logits.softmax(-1)
    pairs = torch.outer(probabilities, probabilities).flatten()
    assert chi_square_excess(codes[:, 0] * 5 + codes[:, 1], pairs) < 1


def test_temperature_0_is_the_argmax_and_draws_nothing():
    logits = torch.randn(3, 4, 50)
    taken = generators(1, 2, 3)
    states = [generator.get_state() for generator in taken]
    codes = sample_codes(logits, temperature=0.0, top_k=5, top_p=0.5, generators=taken)
    assert torch.equal(codes, logits.argmax(-1))
    assert all(map(torch.equal, states, [generator.get_state() for generator in taken]))


@pytest.mark.parametrize("temperature", [1e-38, 1e-6])
def test_a_tiny_temperature_is_the_argmax(temperature):
    logits = 20 * torch.randn(1, 6, 50)
    codes = sample_codes(
        logits, temperature=temperature, top_k=0, top_p=1.0, generators=generators(0)
    )
    assert torch.equal(codes, logits.argmax(-1))


@given(seed=st.integers(0, 10_000), top_k=st.integers(1, 60))
def test_top_k_keeps_exactly_so_many(seed, top_k):
    logits = torch.randint(0, 5, (4, 50), generator=torch.Generator().manual_seed(seed)).float()
    kept = keep_top_k(logits, top_k)
    is_kept = kept.isfinite()
    assert (is_kept.sum(-1) == min(top_k, 50)).all()
    assert torch.equal(kept[is_kept], logits[is_kept])
    worst_kept = kept.masked_fill(~is_kept, torch.inf).min(-1).values
    best_dropped = logits.masked_fill(is_kept, -torch.inf).max(-1).values
    assert (worst_kept >= best_dropped).all()


@given(seed=st.integers(0, 10_000), top_p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_codes_that_suffice(seed, top_p):
    logits = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(seed))
    kept = keep_top_p(logits, top_p)
    probabilities = logits.double().softmax(-1)
    is_kept = kept.isfinite()
    mass = (probabilities * is_kept).sum(-1)
    least = probabilities.masked_fill(~is_kept, 2).min(-1).values
    assert torch.equal(kept[is_kept], logits[is_kept])
    assert (mass >= top_p - 1e-9).all()
    assert (mass - least < top_p + 1e-9).all()


def test_truncation_that_keeps_all_changes_nothing():
    logits = torch.randn(4, 50)
    assert keep_top_k(logits, 0) is keep_top_k(logits, 50) is keep_top_p(logits, 1.0) is logits


@pytest.mark.parametrize("uniform", [0.0, math.nextafter(1.0, 0.0)])
def test_the_ends_of_the_unit_interval_draw_possible_codes(uniform):
    logits = torch.full((200, 30), -torch.inf)
    logits[:, 10:20] = 5 * torch.randn(200, 10)
    codes = draw(logits, torch.full((200,), uniform, dtype=torch.float64))
    assert ((codes >= 10) & (codes < 20)).all()


def test_an_item_is_drawn_from_its_own_generator():
    logits = torch.randn(3, 4, 50)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    together = sample_codes(logits, generators=generators(5, 6, 7), **options)
    alone = sample_codes(logits[1:2], generators=generators(6), **options)
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.1}, r"temperature must be finite and >= 0: got -0.1"),
        ({"temperature": float("inf")}, r"temperature must be finite and >= 0: got inf"),
        ({"temperature": float("nan")}, r"temperature must be finite and >= 0: got nan"),
        ({"top_k": -1}, r"top_k must be >= 0, where 0 keeps all codes: got -1"),
        ({"top_p": 0.0}, r"top_p must be above 0 and at most 1: got 0.0"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1: got 1.5"),
        ({"generators": []}, r"need one generator per item: got 0 for 2 items"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "generators": generators(1, 2)}
    with pytest.raises(SamplingError, match=message):
        sample_codes(torch.zeros(2, 3, 10), **(options | change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_not_finite_is_refused(value, temperature):
    logits = torch.zeros(1, 3, 10)
    logits[0, 1, 4] = value
    with pytest.raises(SamplingError, match="a logit is NaN or infinite"):
        sample_codes(logits, temperature=temperature, top_k=0, top_p=1.0, generators=generators(0))
