"""Laws of shapes and sizes: what cannot work is refused, what is printed is exact."""

import pytest
import torch
from pydantic import ValidationError

from melodac.errors import ConfigError
from melodac.models.condition import encode_texts
from melodac.models.config import (
    SIZES,
    LanguageModelConfig,
    build_config,
    count_block,
    count_parameters,
)
from melodac.models.language_model import LanguageModel
from melodac.training.planning.estimates import (
    codes_per_parameter,
    count_training_flops,
    estimate_training_memory,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dim": 4}, r"num_heads \(4\) times head_dim \(4\) must equal dim \(32\): got 16"),
        ({"num_kv_heads": 3}, r"num_kv_heads \(3\) must divide num_heads \(4\)"),
        ({"dim": 28, "head_dim": 7}, r"head_dim must be even: got 7"),
        ({"num_layers": 0}, r"greater than 0"),
        ({"dropout": 1.0}, r"less than 1"),
        ({"text_bytes": 9}, r"must all be above 0 or all be 0: got 9, 0 and 0"),
        (
            {"text_bytes": 9, "text_layers": 1, "memory_dim": 12},
            r"memory_dim \(12\) must be a multiple of head_dim \(8\)",
        ),
        ({"drop_out": 0.1}, r"Extra inputs are not permitted"),
    ],
)
def test_a_shape_that_cannot_work_is_refused(tiny_config, change, message):
    with pytest.raises(ValidationError, match=message):
        LanguageModelConfig(**(tiny_config.model_dump() | change))


def test_a_config_survives_json(tiny_config):
    assert LanguageModelConfig.model_validate_json(tiny_config.model_dump_json()) == tiny_config


@pytest.mark.parametrize("reads_text", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_counts_its_parameters_exactly(size, reads_text):
    config = build_config(size, num_codebooks=9, dropout=0.0, reads_text=reads_text)
    with torch.device("meta"):
        model = LanguageModel(config)
    assert count_parameters(config).total == sum(weight.numel() for weight in model.parameters())


def test_the_parts_of_the_count_are_the_parts_of_the_model(reading_config, reading_model):
    count = count_parameters(reading_config)
    parts = {"embedding": 0, "geometry": 0, "text_encoder": 0, "blocks": 0, "head": 0}
    for name, weight in reading_model.named_parameters():
        parts[name.split(".")[0].removesuffix("_norm")] += weight.numel()
    assert count._asdict() == parts


@pytest.mark.parametrize("size", SIZES)
def test_reading_texts_costs_less_than_half_the_model(size):
    plain, reading = (
        count_parameters(
            build_config(size, num_codebooks=9, dropout=0.0, reads_text=reads_text)
        ).total
        for reads_text in (False, True)
    )
    assert plain < reading < 1.5 * plain


def test_a_model_without_texts_is_the_model_it_was(tiny_config):
    assert tiny_config.text_bytes == tiny_config.memory_dim == 0
    assert count_parameters(tiny_config).text_encoder == 0
    assert not any(
        "text" in name or "cross" in name for name in LanguageModel(tiny_config).state_dict()
    )


def test_nano_fits_two_cores():
    assert 3e6 < count_parameters(build_config("nano", num_codebooks=9, dropout=0.0)).total < 6e6


def test_an_unknown_size_is_refused():
    with pytest.raises(ConfigError, match="unknown model size 'nanno': allowed are nano, micro"):
        build_config("nanno", num_codebooks=9, dropout=0.0)


@pytest.mark.parametrize("text", [None, "x" * 80], ids=["codes", "codes and text"])
def test_the_activation_estimate_is_what_autograd_keeps(tiny_config, reading_config, text):
    config = (reading_config if text else tiny_config).model_copy(update={"dropout": 0.1})
    condition = encode_texts([text] * 2, 80) if text else None
    model = LanguageModel(config)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden(torch.randint(0, 1024, (2, 3, 128)), condition)
    estimate = estimate_training_memory(config, batch_size=2, num_steps=128)
    assert hidden.requires_grad
    assert estimate.activation_bytes == pytest.approx(sum(kept.values()), rel=0.1)


def test_the_memory_estimate_is_linear_in_the_batch(tiny_config):
    one = estimate_training_memory(tiny_config, batch_size=1, num_steps=64)
    four = estimate_training_memory(tiny_config, batch_size=4, num_steps=64)
    assert four.activation_bytes == 4 * one.activation_bytes
    assert four.logit_bytes == 4 * one.logit_bytes


def test_flops_are_those_of_the_matrices(tiny_config):
    count = count_parameters(tiny_config)
    attention = 3 * 2 * 32 * 64 * 2  # three passes, two layers, half of 2 * 2 * S * D each
    flops = count_training_flops(tiny_config, batch_size=2, num_steps=64)
    assert flops == 2 * 64 * (6 * (count.blocks + count.head) + attention)


def test_flops_of_a_text_are_those_of_its_bytes_and_of_reading_them(tiny_config, reading_config):
    plain, reading = (
        count_training_flops(config, batch_size=1, num_steps=64)
        for config in (tiny_config, reading_config)
    )
    encoder = reading_config.text_encoder()
    scores = 3 * 2 * (4 * 80 * 16) * 80  # three passes, two layers, scores and sum over 80 bytes
    projections = 2 * (16 * 2 * 2 * 8)  # two layers, keys and values of two heads
    of_bytes = scores + 80 * 6 * (2 * count_block(encoder) + projections)
    per_step = 2 * (2 * 32 * 32 + 32 + 8)  # two layers: query, output, norms
    of_steps = 64 * (6 * per_step + 3 * 2 * (4 * 80 * 32))
    assert reading - plain == of_bytes + of_steps


def test_codes_per_parameter_is_the_ratio(tiny_config):
    total = count_parameters(tiny_config).total
    assert codes_per_parameter(tiny_config, num_codes=5 * total) == 5.0
