"""Laws of what training reads: how much is replaced, what never is, what it depends on."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from melodac.errors import CheckpointMismatchError
from melodac.tokens.delay import apply_delay, build_pattern, is_code
from melodac.tokens.vocabulary import BOS, CODEBOOK_SIZE, PAD
from melodac.training.config import CorruptionConfig
from melodac.training.corruption import Corruption

PATTERN = build_pattern([0, 1, 2], num_codebooks=3)


def build_config(**changes):
    off = {
        "token_noise": 0.0,
        "token_noise_updates": 0,
        "own_codes": 0.0,
        "own_codes_from": 0,
        "own_codes_updates": 0,
    }
    return CorruptionConfig(**{**off, **changes})


def build_part(items=range(4), frames=50):
    """Windows with specials at their start and end; item n always holds the same codes."""
    codes = torch.stack([
        torch.randint(0, CODEBOOK_SIZE, (3, frames), generator=torch.Generator().manual_seed(n))
        for n in items
    ])
    return SimpleNamespace(items=items, sequence=apply_delay(codes, PATTERN), condition=None)


class Says(nn.Module):
    """Predicts one code at every cell, or anything; counts how often it is asked."""

    def __init__(self, code=None, logit=1e4):
        super().__init__()
        self.code = code
        self.logit = logit
        self.calls = []

    def forward(self, sequence, condition):
        self.calls.append((self.training, torch.is_grad_enabled()))
        logits = torch.zeros(*sequence.shape, CODEBOOK_SIZE)
        if self.code is not None:
            logits[..., self.code] = self.logit
        return logits


def read(part, model=None, update=1, seed=3, **changes):
    return Corruption(build_config(**changes), seed).inputs(model or Says(), part, update=update)


def test_nothing_is_touched_or_computed_when_off():
    part, model = build_part(), Says()
    assert read(part, model) is part.sequence
    assert model.calls == []


@pytest.mark.parametrize(
    ("update", "changes"),
    [
        (7, {"token_noise": 0.5, "token_noise_updates": 7}),
        (10, {"own_codes": 0.5, "own_codes_from": 10, "own_codes_updates": 5}),
    ],
)
def test_nothing_is_touched_outside_of_its_updates(update, changes):
    part, model = build_part(), Says()
    assert read(part, model, update, **changes) is part.sequence
    assert model.calls == []


@pytest.mark.parametrize("changes", [{"token_noise": 0.3}, {"own_codes": 0.3}], ids=str)
def test_the_share_that_was_asked_for_is_replaced(changes):
    """7,800 cells; false alarm beyond five standard deviations, under one in a million."""
    part = build_part(range(8), frames=325)
    changed = (read(part, **changes) != part.sequence)[is_code(part.sequence)].double()
    expected = 0.3 * (1 - 1 / CODEBOOK_SIZE)
    assert float(changed.mean()) == pytest.approx(expected, abs=5 * (0.21 / len(changed)) ** 0.5)


def test_noise_is_spread_evenly_over_all_codes():
    """Chi-square of 64 bins: 63 degrees of freedom, beyond 120 in 1 of 50,000 fair draws."""
    part = build_part(range(8), frames=325)
    found = read(part, token_noise=0.9)
    codes = found[found != part.sequence]
    counts = torch.bincount(codes // 16, minlength=64).double()
    expected = len(codes) / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 120
    assert bool(is_code(codes).all())


@settings(max_examples=30)
@given(
    update=st.integers(1, 1000),
    noise=st.sampled_from([0.0, 0.2, 0.99]),
    own=st.sampled_from([0.0, 0.2, 0.99]),
)
def test_specials_and_targets_are_never_touched(update, noise, own):
    part = build_part()
    before = part.sequence.clone()
    found = read(part, update=update, token_noise=noise, own_codes=own)
    assert torch.equal(part.sequence, before)
    for special in (BOS, PAD):
        assert torch.equal(found == special, before == special)
    assert found.dtype == before.dtype


@pytest.mark.parametrize(
    "changes", [{"token_noise": 0.3}, {"own_codes": 0.3}, {"token_noise": 0.2, "own_codes": 0.2}]
)
def test_an_item_is_the_same_in_any_cut_and_on_any_rank(changes):
    whole = read(build_part(range(4)), **changes)
    for items in (range(1), range(1, 3), range(3, 4)):
        part = read(build_part(items), **changes)
        assert torch.equal(part, whole[items.start : items.stop])


@pytest.mark.parametrize("changes", [{"token_noise": 0.3}, {"own_codes": 0.3}], ids=str)
def test_draws_depend_on_seed_update_and_item_and_on_nothing_else(changes):
    part = build_part()
    first = read(part, **changes)
    torch.rand(17)
    state = torch.get_rng_state()
    assert torch.equal(first, read(part, **changes))
    assert torch.equal(state, torch.get_rng_state())
    places = first != part.sequence
    for others in (read(part, seed=4, **changes), read(part, update=2, **changes)):
        assert not torch.equal(places, others != part.sequence)
    assert not torch.equal(places[0], places[1])


def test_noise_falls_and_own_codes_rise_with_the_update():
    part = build_part(range(8), frames=200)

    def share(update, **changes):
        found = read(part, Says(), update, **changes) != part.sequence
        return float(found[is_code(part.sequence)].double().mean())

    noise = [share(u, token_noise=0.4, token_noise_updates=21) for u in (1, 11, 21)]
    assert noise == pytest.approx([0.4, 0.2, 0.0], abs=0.04)
    own = [share(u, own_codes=0.4, own_codes_from=10, own_codes_updates=20) for u in (10, 20, 30)]
    assert own == pytest.approx([0.0, 0.2, 0.4], abs=0.04)


def test_own_codes_are_what_the_model_says():
    part = build_part()
    found = read(part, Says(code=77), own_codes=0.5)
    changed = found != part.sequence
    assert bool((found[changed] == 77).all())


def test_own_codes_are_drawn_and_not_the_likeliest():
    part = build_part(range(8), frames=200)
    found = read(part, Says(code=77, logit=7.0), own_codes=0.9)
    changed = found[found != part.sequence]
    likely = 1096.6 / (1096.6 + 1023)  # e to the 7th among 1023 others
    assert float((changed == 77).double().mean()) == pytest.approx(likely, abs=0.04)


def test_own_codes_come_from_one_pass_without_dropout_or_gradient():
    model = Says().train()
    read(build_part(), model, own_codes=0.5)
    assert model.calls == [(False, False)]
    assert model.training


def test_a_diverged_model_is_left_to_the_judgement_of_the_update():
    part = build_part()
    model = Says(code=5, logit=float("nan"))
    found = read(part, model, own_codes=0.5)
    assert bool(is_code(found[is_code(part.sequence)]).all())


def test_stopped_own_codes_stay_stopped_after_a_resume():
    part, model = build_part(), Says()
    corruption = Corruption(build_config(own_codes=0.5), seed=3)
    assert corruption.reads_own_codes
    event = corruption.stop_own_codes(update=8)
    assert (event.name, event.update) == ("alarm", 8)
    resumed = Corruption(build_config(own_codes=0.5), seed=3)
    resumed.restore(corruption.state())
    for one in (corruption, resumed):
        assert one.inputs(model, part, update=9) is part.sequence
        assert not one.reads_own_codes
    with pytest.raises(CheckpointMismatchError, match="are_own_codes_stopped"):
        resumed.restore({})
