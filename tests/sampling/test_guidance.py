"""Laws of guidance: s = 1 is the text, s = 0 is none, and null is what training called null."""

import pytest
import torch

from melodac.errors import SamplingError
from melodac.models.condition import encode_texts
from melodac.models.language_model import LanguageModel
from melodac.sampling.generate import generate
from melodac.sampling.guidance import Guided, Stepper, guide
from melodac.sampling.logits import SamplingSettings
from melodac.tokens.delay import build_pattern
from melodac.tokens.vocabulary import BOS
from melodac.training.conditions import draw_conditions
from melodac.training.config import TrainConfig

PLAIN = SamplingSettings(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = SamplingSettings(temperature=0.0, top_k=0, top_p=1.0)
CPU = torch.device("cpu")
FOLK = encode_texts(["folk", "slow piano"], 80)
OTHER = encode_texts(["loud", "x" * 80], 80)
ALL = [0, 1, 2]


@pytest.fixture(scope="module")
def reader(singer):
    """A singer that reads texts."""
    config = singer.config.model_copy(
        update={"text_bytes": 80, "text_layers": 1, "memory_dim": 16, "dropout": 0.0}
    )
    torch.manual_seed(1)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model


def guided(model, condition=FOLK, scale=1.0):
    return Guided(model, condition, scale, has_trained_null=True)


def some_codes(batch_size, num_frames):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 1024, (batch_size, 3, num_frames), generator=generator)


@torch.inference_mode()
def play_logits(voice, sequence, known=4):
    """Logits of each step of a given sequence, on the path that generation takes."""
    stepper = Stepper(voice, len(sequence), capacity=sequence.shape[-1], device=CPU)
    if known:
        stepper.prefill(sequence[..., :known])
    before = torch.full_like(sequence[..., 0], BOS)
    steps = range(known, sequence.shape[-1])
    return torch.stack([
        stepper.step(sequence[..., step - 1] if step else before, ALL) for step in steps
    ])


def test_the_formula_at_its_fixed_points():
    torch.manual_seed(0)
    conditional, unconditional = torch.randn(2, 2, 3, 1024)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(
        guide(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional
    )


@pytest.mark.parametrize("known", [0, 4])
def test_guidance_1_is_the_text_alone_bit_for_bit(reader, known):
    sequence = some_codes(2, 12)
    played = play_logits(guided(reader, scale=1.0), sequence, known)
    with torch.inference_mode():
        whole = reader(sequence, FOLK)[:, :, known:].permute(2, 0, 1, 3)
    torch.testing.assert_close(played, whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(played, play_logits(Guided(reader, FOLK), sequence, known))


@pytest.mark.parametrize("known", [0, 4])
def test_guidance_0_is_no_text_bit_for_bit(reader, known):
    sequence = some_codes(2, 12)
    played = play_logits(guided(reader, scale=0.0), sequence, known)
    assert torch.equal(played, play_logits(reader, sequence, known))
    assert torch.equal(played, play_logits(guided(reader, OTHER, scale=0.0), sequence, known))


def test_guidance_between_is_the_formula_on_both(reader):
    sequence = some_codes(2, 12)
    conditional = play_logits(guided(reader, scale=1.0), sequence)
    unconditional = play_logits(guided(reader, scale=0.0), sequence)
    for scale in (0.5, 3.0):
        expected = unconditional + scale * (conditional - unconditional)
        played = play_logits(guided(reader, scale=scale), sequence)
        torch.testing.assert_close(played, expected, rtol=1e-3, atol=1e-3)


def test_null_of_guidance_is_null_of_training_bit_for_bit(reader, monkeypatch):
    """The second half of a guided pass, beside a training batch whose condition was dropped."""
    seen = []
    read = LanguageModel.read

    def remember(self, condition, num_items):
        memory = read(self, condition, num_items)
        seen.append(memory)
        return memory

    monkeypatch.setattr(LanguageModel, "read", remember)
    play_logits(guided(reader, scale=3.0), some_codes(2, 6))
    dropped = draw_conditions(
        [("folk",), ("slow piano",)], dropping_all(), update=1, items=range(2), max_bytes=80
    )
    assert dropped.is_null.all()
    with torch.inference_mode():
        trained = reader.read(dropped, 2)
        sequence = some_codes(2, 12).repeat(2, 1, 1)
        given = encode_texts(["folk", "slow piano", None, None], 80)
        hidden = reader.hidden(sequence, given)[2:]
        alone = reader.hidden(sequence, dropped.repeated(2))[2:]
    null = seen[0]
    assert torch.equal(null.states[2:, 0], trained.states[:, 0])
    assert null.seen[2:, 0].all()
    assert not null.seen[2:, 1:].any()
    assert not trained.seen[:, 1:].any()
    assert torch.equal(hidden, alone)


def dropping_all():
    return TrainConfig.model_construct(
        seed=0, unconditional_frac=1.0, tag_shuffle=True, tag_dropout=0.0, tag_limit=0
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_an_item_does_not_depend_on_its_batch_mates(reader, scale):
    pattern = build_pattern("musicgen", 3)
    prefix = some_codes(2, 3)
    request = {"num_frames": 12, "settings": PLAIN}
    together = generate(
        guided(reader, FOLK, scale), pattern, seeds=[4, 5], prefix=prefix, **request
    )
    for item in range(2):
        one = slice(item, item + 1)
        alone = generate(
            guided(reader, FOLK.take(one), scale),
            pattern,
            seeds=[4 + item],
            prefix=prefix[one],
            **request,
        )
        assert torch.equal(together[one], alone)


def test_the_text_steers_and_guidance_steers_further(reader):
    pattern = build_pattern("musicgen", 3)
    request = {"num_frames": 12, "seeds": [1, 2], "settings": GREEDY}
    voices = [reader, guided(reader), guided(reader, OTHER), guided(reader, scale=5.0)]
    played = [generate(voice, pattern, **request) for voice in voices]
    for first in range(4):
        for second in range(first):
            assert not torch.equal(played[first], played[second])


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_generation_to_a_text_draws_from_the_seeds_alone(reader, scale):
    before = torch.get_rng_state()
    pattern = build_pattern("flat", 3)
    request = {"num_frames": 6, "seeds": [1, 2], "settings": PLAIN}
    first = generate(guided(reader, scale=scale), pattern, **request)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, generate(guided(reader, scale=scale), pattern, **request))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
def test_guidance_is_refused_where_null_was_never_trained(reader, scale):
    message = r"never met \(train.unconditional_frac = 0\): set guidance to 1 or train with some"
    with pytest.raises(SamplingError, match=message):
        Guided(reader, FOLK, scale, has_trained_null=False)
    assert Guided(reader, FOLK, 1.0, has_trained_null=False).scale == 1.0


def test_guidance_is_refused_by_a_model_that_reads_no_text(singer):
    with pytest.raises(SamplingError, match=r"guidance 2 needs a model that reads texts, this one"):
        Guided(singer, FOLK, 2.0, has_trained_null=True)
    with pytest.raises(SamplingError, match=r"this model reads no text, so it cannot play to one"):
        Guided(singer, FOLK)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_guidance_that_is_no_scale_is_refused(reader, scale):
    with pytest.raises(SamplingError, match="guidance must be finite and >= 0: got"):
        guided(reader, scale=scale)


def test_texts_and_seeds_must_be_as_many(reader):
    with pytest.raises(SamplingError, match="need one text per item: got 2 for 3 seeds"):
        generate(
            guided(reader),
            build_pattern("musicgen", 3),
            num_frames=4,
            seeds=[1, 2, 3],
            settings=PLAIN,
        )
