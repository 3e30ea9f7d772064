"""The discriminators are DAC's at full width, and cheaper ones below it."""

import importlib

import pytest
import torch

from melodac.codec.architecture import dac_model_class
from melodac.codec_training.adversary import Adversary, Discriminator
from melodac.codec_training.config import AdversarialConfig, DiscriminatorShape

SMALL = DiscriminatorShape(periods=(2, 3), windows=(256,), width=0.05)
ALL = [0, 1, 2]


def noise(seed: int, batch: int = 2) -> torch.Tensor:
    return 0.2 * torch.randn(batch, 1, 3001, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def make_adversary():
    def make(**changes) -> Adversary:
        config = AdversarialConfig(begins_at=0, lead_updates=2, shape=SMALL, drawn=None)
        return Adversary(config.model_copy(update=changes), seed=3)

    return make


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of DAC's weight norm
@torch.no_grad()
def test_at_full_width_they_are_those_of_dac():
    dac_model_class()  # imports dac whatever the state of torchaudio
    theirs = importlib.import_module("dac.model.discriminator").Discriminator(
        periods=[2, 5], fft_sizes=[512]
    )
    ours = Discriminator(DiscriminatorShape(periods=(2, 5), windows=(512,), width=1.0))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for one, other in zip(ours(noise(0), ALL), theirs(noise(0)), strict=True):
        for mine, expected in zip(one, other, strict=True):
            torch.testing.assert_close(mine, expected)


def test_width_is_a_share_of_the_channels():
    def parameters(width: float) -> int:
        shape = DiscriminatorShape(periods=(2,), windows=(512,), width=width)
        return sum(parameter.numel() for parameter in Discriminator(shape).parameters())

    assert parameters(0.25) < parameters(1.0) / 12


@pytest.mark.parametrize("level", [0.0, 1e-6])
def test_near_silence_gives_bounded_gradients(make_adversary, level):
    adversary = make_adversary()
    fake = (level * noise(1)).requires_grad_()
    _, of_real = adversary.learn(torch.zeros_like(fake), fake, ALL)
    judged = adversary.terms(fake, of_real, ALL)
    (judged.adversarial + judged.feature).backward()
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()
    assert fake.grad.abs().max() < 100


def test_discriminators_learn_to_tell_real_from_fake(make_adversary):
    adversary = make_adversary(learning_rate=2e-3)
    losses = [adversary.learn(noise(0), 0.2 * noise(1).sign(), ALL)[0] for _ in range(25)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_codec_is_judged_and_the_judges_are_not(make_adversary):
    adversary = make_adversary()
    fake = noise(1).requires_grad_()
    _, of_real = adversary.learn(noise(0), fake, ALL)
    assert fake.grad is None
    before = [parameter.grad.clone() for parameter in adversary.discriminator.parameters()]
    judged = adversary.terms(fake, of_real, ALL)
    (judged.adversarial + judged.feature).backward()
    assert fake.grad is not None
    after = [parameter.grad for parameter in adversary.discriminator.parameters()]
    assert all(map(torch.equal, before, after))


@torch.no_grad()
def test_real_sound_has_no_feature_distance_from_itself(make_adversary):
    adversary = make_adversary()
    of_real = adversary.discriminator(noise(0), ALL)
    assert float(adversary.terms(noise(0), of_real, ALL).feature) == 0


@torch.no_grad()
def test_drawn_judges_stand_for_all_on_average(make_adversary):
    adversary = make_adversary()
    of_real = adversary.discriminator(noise(0), ALL)
    whole = adversary.terms(noise(1), of_real, ALL)
    single = [adversary.terms(noise(1), [of_real[index]], [index]) for index in ALL]
    for name in ("adversarial", "feature"):
        mean = sum(float(getattr(terms, name)) for terms in single) / 3
        assert mean == pytest.approx(float(getattr(whole, name)), rel=1e-5)


def test_every_judge_is_drawn_and_a_seed_repeats_the_draw(make_adversary):
    def drawn() -> list[list[int]]:
        draw = torch.Generator().manual_seed(5)
        return [make_adversary(drawn=2).draw(draw) for _ in range(20)]

    assert drawn() == drawn()
    assert all(len(set(judges)) == 2 for judges in drawn())
    assert {index for judges in drawn() for index in judges} == set(ALL)


def test_a_seed_begins_them_and_leaves_the_rest_of_the_program_alone(make_adversary):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, second = make_adversary(), make_adversary()
    assert torch.equal(torch.rand(1), expected)
    pairs = zip(first.discriminator.parameters(), second.discriminator.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
