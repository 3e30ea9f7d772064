"""The initialisation table is what the model has, and what it promises is so before update 1."""

import math

import pytest
import torch
from torch.nn import functional

from melodac.errors import ModelError
from melodac.models.condition import encode_texts
from melodac.models.config import build_config
from melodac.models.initialization import INITIAL_STD, initial_std
from melodac.models.language_model import LanguageModel


@pytest.fixture(scope="module", params=[False, True], ids=["codes", "codes and text"])
def nano(request):
    torch.manual_seed(0)
    config = build_config("nano", num_codebooks=9, dropout=0.0, reads_text=request.param)
    return LanguageModel(config)


def test_every_parameter_has_the_deviation_of_the_table(nano):
    for name, weight in nano.named_parameters():
        expected = initial_std(name, nano.config)
        if expected:
            # five standard errors of a measured deviation, n values: 5 / sqrt(2 n)
            assert float(weight.detach().std()) == pytest.approx(
                expected, rel=5 / math.sqrt(2 * weight.numel())
            ), name
        else:
            assert torch.equal(weight.detach(), torch.ones_like(weight)), name


def test_every_line_of_the_table_is_used(reading_model, reading_config):
    codec = reading_config.model_copy(update={"embedding": "codec", "vector_dim": 8})
    models = (reading_model, LanguageModel(codec))
    names = [name for model in models for name, _ in model.named_parameters()]
    for ending in INITIAL_STD:
        assert any(name.endswith(ending) for name in names), ending


def test_a_parameter_that_is_not_in_the_table_is_refused(tiny_config):
    with pytest.raises(ModelError, match=r"parameter 'blocks.0.adapter.weight' fits 0 lines"):
        initial_std("blocks.0.adapter.weight", tiny_config)


def test_deeper_models_write_less_per_sublayer(tiny_config):
    deeper = tiny_config.model_copy(update={"num_layers": 8})
    name = "blocks.0.feedforward.down.weight"
    assert initial_std(name, deeper) == pytest.approx(initial_std(name, tiny_config) / 2)


def test_a_third_sublayer_makes_each_write_less(tiny_config, reading_config):
    name = "blocks.0.feedforward.down.weight"
    assert initial_std(name, reading_config) == pytest.approx(
        initial_std(name, tiny_config) * math.sqrt(2 / 3)
    )


def test_the_text_encoder_is_scaled_by_its_own_width_and_depth(reading_config):
    inside = "text_encoder.blocks.0.attention."
    assert initial_std(inside + "query_key_value.weight", reading_config) == 1 / math.sqrt(16)
    assert initial_std(inside + "output.weight", reading_config) == 1 / math.sqrt(16 * 2 * 2)


def test_the_first_loss_is_that_of_a_uniform_guess(nano):
    torch.manual_seed(1)
    sequence = torch.randint(0, 1024, (2, 9, 64))
    with torch.no_grad():
        loss = functional.cross_entropy(nano(sequence).flatten(0, 2), sequence.flatten())
    assert float(loss) == pytest.approx(math.log(1024), rel=0.02)


def test_no_sublayer_starts_dead_or_loud(nano):
    ratios = []
    encoder = nano.text_encoder
    blocks = [*nano.blocks, *([] if encoder is None else encoder.blocks)]
    sublayers = [
        sublayer
        for block in blocks
        for sublayer in (block.attention, block.cross_attention, block.feedforward)
        if sublayer is not None
    ]
    for sublayer in sublayers:
        sublayer.register_forward_hook(
            lambda _module, _inputs, output: ratios.append(float(output.square().mean().sqrt()))
        )
    condition = None if encoder is None else encode_texts(["folk, fiddle", "piano"], 512)
    with torch.no_grad():
        nano(torch.randint(0, 1024, (2, 9, 64)), condition)
    assert len(ratios) == (8 if encoder is None else 12 + 4)
    assert all(0.05 < ratio < 1.0 for ratio in ratios), ratios


def test_every_parameter_receives_gradient(tiny_model):
    sequence = torch.randint(0, 1026, (4, 3, 32))
    tiny_model(sequence).square().mean().backward()
    for name, weight in tiny_model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.count_nonzero(), name


def test_every_parameter_that_reads_texts_receives_gradient(reading_model):
    sequence = torch.randint(0, 1026, (2, 3, 32))
    condition = encode_texts(["folk, fiddle", None], 80)
    reading_model(sequence, condition).square().mean().backward()
    for name, weight in reading_model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.count_nonzero(), name


def test_one_seed_gives_one_model(tiny_config):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(LanguageModel(tiny_config))
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
