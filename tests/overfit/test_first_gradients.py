"""Laws of the comparison of one real update with one update of the gate."""

import pytest
import torch

from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.overfit.report import (
    FirstGradients,
    compare_gradients,
    silent_modules,
    take_first_gradients,
)
from melodac.tokens.delay import build_pattern
from melodac.training.seeding import seeded

PATTERN = build_pattern((0, 1), 2)
TAGS = (("piano",), (), ("drums", "bass"), ("voice",))


@pytest.fixture
def reader_of_texts():
    config = build_config("nano", num_codebooks=2, dropout=0.0, reads_text=True)
    with seeded(0, "initialisation"):
        return LanguageModel(config)


def test_the_gradients_are_those_of_the_trainer(build_model, build_trainer, data, train_config):
    found = take_first_gradients(build_model(0.0), PATTERN, data, train_config)
    trainer = build_trainer(updates=12, stop_at=1)
    trainer.run()
    whole = sum(norm**2 for norm in found.norms.values()) ** 0.5
    assert whole == pytest.approx(trainer.updates[0]["grad_norm"], rel=1e-6)


def test_the_model_is_left_as_it_was(build_model, data, train_config):
    model = build_model(0.0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    take_first_gradients(model, PATTERN, data, train_config)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    dropouts = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert set(dropouts) == {0.0}


def test_a_module_without_gradient_is_named_with_its_update(build_model, data, train_config):
    model = build_model(0.0)
    whole = take_first_gradients(model, PATTERN, data, train_config)
    attention = model.blocks[0].attention
    attention.register_forward_hook(lambda _module, _inputs, output: output.detach())
    cut = take_first_gradients(model, PATTERN, data, train_config)
    assert silent_modules(whole, whole) == []
    assert [line.partition(":")[0] for line in silent_modules(whole, cut)] == [
        "blocks.0.attention_norm receives no gradient from an update of the gate",
        "blocks.0.attention receives no gradient from an update of the gate",
    ]
    assert "from an update of the real run" in silent_modules(cut, whole)[0]


def test_shares_of_the_whole_are_compared_not_sizes():
    real = FirstGradients({"embedding": 3.0, "head": 4.0}, has_text=False)
    tenfold = FirstGradients({"embedding": 30.0, "head": 40.0}, has_text=False)
    assert [row.ratio for row in compare_gradients(tenfold, real)] == pytest.approx([1.0, 1.0])
    silent = FirstGradients({"embedding": 5.0, "head": 0.0}, has_text=False)
    (embedding, head) = compare_gradients(real, silent)
    assert embedding == ("embedding", 3.0, 5.0, pytest.approx(0.6))
    assert head.ratio is None


def test_an_update_that_reads_a_text_is_looked_at(reader_of_texts, data, train_config):
    # nine in ten items are without their tags, so the first updates may read none
    config = train_config.model_copy(update={"unconditional_frac": 0.9, "condition": "tags"})
    tagged = data._replace(train_tags=TAGS)
    found = take_first_gradients(reader_of_texts, PATTERN, tagged, config)
    assert found.has_text
    assert found.silent() == []
    assert found.norms["text_encoder.blocks.0.attention"] > 0


def test_without_any_text_the_encoder_is_not_blamed(reader_of_texts, data, train_config):
    untagged = data._replace(train_tags=((),) * 4)
    found = take_first_gradients(reader_of_texts, PATTERN, untagged, train_config)
    assert not found.has_text
    assert found.norms["text_encoder.blocks.0.attention"] == 0
    assert found.silent() == []


def test_cross_attention_without_gradient_is_named(reader_of_texts, data, train_config):
    for block in reader_of_texts.blocks:
        block.cross_attention.register_forward_hook(lambda _m, _inputs, output: output.detach())
    config = train_config.model_copy(update={"condition": "tags"})
    tagged = data._replace(train_tags=TAGS)
    found = take_first_gradients(reader_of_texts, PATTERN, tagged, config)
    assert "blocks.0.cross_attention" in found.silent()
    assert "text_encoder" in found.silent()
