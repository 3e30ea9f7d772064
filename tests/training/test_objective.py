"""Laws of what training follows: what it adds, what it never touches, how parts add up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from melodac.errors import ConfigError, TrainingError
from melodac.training.config import ObjectiveConfig
from melodac.training.loss import per_codebook_loss, total_loss
from melodac.training.objective import Objective, codebook_weights
from tests.reference.objective import objective as slow_objective

EVERYTHING = {
    "label_smoothing": 0.1,
    "codebook_weights": [0.5, 2.0],
    "entropy_bonus": 0.3,
    "usage_bonus": 0.2,
}
EACH = [{key: value} for key, value in EVERYTHING.items()]
SPECIAL = 12


def build_config(**changes):
    plain = {
        "label_smoothing": 0.0,
        "codebook_weights": "uniform",
        "codebook_alpha": 0.5,
        "entropy_bonus": 0.0,
        "entropy_updates": 0,
        "usage_bonus": 0.0,
        "usage_updates": 0,
    }
    return ObjectiveConfig(**{**plain, **changes})


def build_cells(seed=0, counts=(7, 4, 1), num_codebooks=2, num_codes=11):
    """Windows of uneven size; what is not counted holds a special token."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(counts), num_codebooks, max(counts))
    logits = 2 * torch.randn(*shape, num_codes, generator=generator)
    counted = (torch.arange(max(counts)) < torch.tensor(counts)[:, None])[:, None].expand(shape)
    sequence = torch.randint(0, num_codes, shape, generator=generator)
    return logits, torch.where(counted, sequence, SPECIAL), counted


def follow(cells, update=1, **changes):
    return Objective(build_config(**changes), cells[0].shape[1]).measure(*cells, update=update)


def test_with_nothing_on_it_is_the_plain_loss_to_the_bit():
    logits, sequence, counted = build_cells()
    logits.requires_grad_()
    plain = Objective(build_config(), 2)
    measured = plain.measure(logits, sequence, counted, update=1)
    followed = measured.objective / plain.normaliser(12)
    reported = total_loss(*per_codebook_loss(logits, sequence, counted))
    assert torch.equal(followed, reported)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (followed, reported)))


@pytest.mark.parametrize("changes", [{}, *EACH, EVERYTHING], ids=str)
def test_reported_nats_are_plain_to_the_bit_whatever_is_on(changes):
    cells = build_cells()
    nats, counts = per_codebook_loss(*cells)
    measured = follow(cells, **changes)
    assert torch.equal(measured.nats, nats)
    assert torch.equal(measured.counts, counts)


@pytest.mark.parametrize("changes", [{}, *EACH, EVERYTHING], ids=str)
def test_the_softmax_is_taken_once(changes):
    calls = []

    class Count(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    cells = build_cells()
    with Count():
        follow(cells, **changes)
    softmaxes = {functional.cross_entropy, functional.log_softmax, functional.softmax}
    assert len([func for func in calls if func in softmaxes]) == 1


@settings(max_examples=40)
@given(
    seed=st.integers(0, 100),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3).filter(any),
    smoothing=st.sampled_from([0.0, 0.05, 0.9]),
    bonuses=st.tuples(*[st.sampled_from([0.0, 0.1, 2.0])] * 2),
    weights=st.sampled_from([[1.0, 1.0], [0.0, 1.0], [3.0, 0.5]]),
)
def test_objective_matches_the_loop(seed, counts, smoothing, bonuses, weights):
    cells = build_cells(seed, counts)
    found = follow(
        cells,
        label_smoothing=smoothing,
        codebook_weights=weights,
        entropy_bonus=bonuses[0],
        usage_bonus=bonuses[1],
    )
    expected = slow_objective(
        *cells,
        weights=weights,
        smoothing=smoothing,
        entropy_bonus=bonuses[0],
        usage_bonus=bonuses[1],
    )
    assert float(found.objective) == pytest.approx(expected, rel=2e-5, abs=2e-4)


@pytest.mark.parametrize("changes", [{}, *EACH, EVERYTHING], ids=str)
@pytest.mark.parametrize("poison", [1e4, -1e30])
def test_logits_at_specials_change_neither_value_nor_gradient(changes, poison):
    logits, sequence, counted = build_cells()
    poisoned = logits.clone()
    poisoned[~counted] = poison * torch.randn_like(poisoned[~counted])
    found = []
    for some in (logits, poisoned):
        some.requires_grad_()
        value = follow((some, sequence, counted), **changes).objective
        found.append((value, torch.autograd.grad(value, some)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1][counted], found[1][1][counted])
    assert found[1][1][~counted].count_nonzero() == 0
    assert found[1][1][counted].count_nonzero() > 0


@pytest.mark.parametrize("changes", [{}, *EACH, EVERYTHING], ids=str)
def test_parts_of_uneven_size_add_up_to_the_whole(changes):
    cells = build_cells()
    objective = Objective(build_config(**changes), 2)
    whole, parts = cells[0].clone().requires_grad_(), cells[0].clone().requires_grad_()
    total = objective.measure(whole, *cells[1:], update=1).objective / objective.normaliser(12)
    total.backward()
    for rows in (slice(0, 1), slice(1, 3)):
        part = objective.measure(parts[rows], *(cell[rows] for cell in cells[1:]), update=1)
        (part.objective / objective.normaliser(12)).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-5, atol=1e-9)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=5), num_codebooks=st.integers(1, 3))
def test_constant_logits_cost_ln_v_however_many_parts(counts, num_codebooks):
    logits, sequence, counted = build_cells(0, counts, num_codebooks)
    objective = Objective(build_config(), num_codebooks)
    normaliser = objective.normaliser(sum(counts))
    loss = sum(
        float(
            objective.measure(
                torch.zeros_like(logits[b : b + 1]),
                sequence[b : b + 1],
                counted[b : b + 1],
                update=1,
            ).objective
        )
        / normaliser
        for b in range(len(counts))
    )
    assert loss == pytest.approx(math.log(11), rel=1e-5)


@pytest.mark.parametrize("weights", ["uniform", "auto", "first", [0.5, 2.0], [7.0, 7.0]], ids=str)
def test_no_scheme_of_weights_changes_the_scale(weights):
    logits, sequence, counted = build_cells()
    objective = Objective(build_config(codebook_weights=weights), 2)
    flat = objective.measure(torch.zeros_like(logits), sequence, counted, update=1)
    assert float(flat.objective) / objective.normaliser(12) == pytest.approx(math.log(11), rel=1e-5)


def test_named_weights_are_what_they_say():
    assert codebook_weights(build_config(codebook_weights="auto", codebook_alpha=0.5), 3) == (
        1.0,
        1.25,
        1.5,
    )
    assert codebook_weights(build_config(codebook_weights="auto"), 1) == (1.0,)
    assert codebook_weights(build_config(codebook_weights="first"), 3) == (1.0, 0.0, 0.0)
    assert codebook_weights(build_config(codebook_weights="uniform"), 2) == (1.0, 1.0)


def test_a_codebook_of_weight_zero_gets_no_gradient():
    logits, sequence, counted = build_cells()
    logits.requires_grad_()
    follow((logits, sequence, counted), codebook_weights="first").objective.backward()
    assert logits.grad[:, 1].count_nonzero() == 0
    assert logits.grad[:, 0].count_nonzero() > 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "lists 1 weights, the model has 2"), ([0.0, 0.0], "all zero")],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused_before_training(weights, message):
    with pytest.raises(ConfigError, match=message):
        Objective(build_config(codebook_weights=weights), 2)


def test_an_update_without_a_frame_is_refused():
    with pytest.raises(TrainingError, match="0 counted frames"):
        Objective(build_config(), 2).normaliser(0)


@pytest.mark.parametrize("bonus", ["entropy", "usage"])
def test_bonuses_fall_in_a_line_to_the_plain_loss(bonus):
    cells = build_cells()
    changes = {f"{bonus}_bonus": 0.4, f"{bonus}_updates": 5}
    plain = follow(cells).objective
    extra = [float(plain - follow(cells, update=u, **changes).objective) for u in (1, 3, 5, 9)]
    assert extra[0] > 0
    assert extra[1] == pytest.approx(extra[0] / 2, rel=1e-4)
    assert extra[2:] == [0.0, 0.0]
    assert torch.equal(follow(cells, update=5, **changes).objective, plain)


def test_the_usage_bonus_prefers_varied_codes_over_unsure_ones():
    """A window whose cells each say another code loudly has usage and no entropy."""
    varied = 50 * torch.eye(11)[None, None]
    alike = 50 * torch.eye(11)[torch.zeros(11, dtype=torch.long)][None, None]
    sequence, counted = torch.arange(11)[None, None], torch.ones(1, 1, 11, dtype=torch.bool)
    usage = [
        float(follow((some, sequence, counted)).objective)
        - float(follow((some, sequence, counted), usage_bonus=1.0).objective)
        for some in (varied, alike)
    ]
    assert usage[0] == pytest.approx(11 * math.log(11), rel=1e-3)
    assert usage[1] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 3e4])
def test_gradients_are_finite_at_extreme_logits(dtype, size):
    logits, sequence, counted = build_cells()
    extreme = (size * torch.sign(logits)).to(dtype).requires_grad_()
    measured = follow((extreme, sequence, counted), **EVERYTHING)
    measured.objective.backward()
    assert measured.objective.dtype == measured.nats.dtype == torch.float32
    assert bool(measured.objective.isfinite())
    assert extreme.grad.dtype == dtype
    assert bool(extreme.grad.isfinite().all())


def test_half_precision_logits_are_followed_in_full_precision():
    logits, sequence, counted = build_cells()
    rounded = logits.bfloat16()
    found = follow((rounded, sequence, counted), **EVERYTHING).objective
    assert torch.equal(found, follow((rounded.float(), sequence, counted), **EVERYTHING).objective)


def test_the_shares_of_the_objective_are_of_one_size():
    """At a bonus of 0.1 the reward bends the gradient and does not outweigh the loss (O1)."""
    logits, sequence, counted = build_cells(counts=(20, 20))

    def gradient(**changes):
        some = logits.clone().requires_grad_()
        follow((some, sequence, counted), **changes).objective.backward()
        return some.grad

    plain = gradient()
    for changes in ({"entropy_bonus": 0.1}, {"usage_bonus": 0.1}):
        share = float((gradient(**changes) - plain).norm() / plain.norm())
        assert 0.0 < share < 0.5
