"""All initialisation of a model: one table, executed; nothing keeps a library's default.

Unit-size activations in, unit-size activations out: every matrix gets one over the square root of
its inputs, the two matrices that write to the residual stream are smaller the deeper the model, and
the head is so small that the first loss is that of a uniform guess. Models only.
"""

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import nn

from melodac.errors import ModelError
from melodac.models.config import LanguageModelConfig, TransformerConfig

_Rule = Callable[[TransformerConfig], float]

_TEXT_ENCODER = "text_encoder."
"""Where the names of a second, smaller stack begin; the same table holds for it."""


def _into_residual(fan_in: int, config: TransformerConfig) -> float:
    """One output for each sublayer: together they add up to a stream of about unit size."""
    return 1 / math.sqrt(fan_in * config.num_sublayers)


INITIAL_STD = MappingProxyType[str, _Rule]({
    "embedding.weight": lambda config: 1 / math.sqrt(config.dim),
    "attention.query_key_value.weight": lambda config: 1 / math.sqrt(config.dim),
    "attention.output.weight": lambda config: _into_residual(config.dim, config),
    "cross_attention.query.weight": lambda config: 1 / math.sqrt(config.dim),
    "cross_attention.key_value.weight": lambda config: 1 / math.sqrt(config.memory_dim),
    "feedforward.gate_up.weight": lambda config: 1 / math.sqrt(config.dim),
    "feedforward.down.weight": lambda config: _into_residual(config.ff_dim, config),
    "head.weight": lambda config: 0.1 / math.sqrt(config.dim),
    "byte_table.weight": lambda _config: 1.0,
    "null": lambda _config: 1.0,
    "norm.weight": lambda _config: 0.0,
})
"""Standard deviation by the end of a parameter's name; 0 marks a scale, which starts at 1."""


def initial_std(name: str, config: TransformerConfig) -> float:
    """Standard deviation that the table gives to a parameter.

    Raises:
        ModelError: If no line or more than one line of the table fits the name.
    """
    if name.startswith(_TEXT_ENCODER) and isinstance(config, LanguageModelConfig):
        return initial_std(name.removeprefix(_TEXT_ENCODER), config.text_encoder())
    rules = [rule for ending, rule in INITIAL_STD.items() if name.endswith(ending)]
    if len(rules) != 1:
        raise ModelError(
            f"parameter {name!r} fits {len(rules)} lines of the initialisation table, it must fit "
            "one: add or narrow a line of INITIAL_STD"
        )
    return rules[0](config)


@torch.no_grad()
def initialize(model: nn.Module, config: LanguageModelConfig) -> None:
    """Draw every parameter of a model anew, from torch's global generator, as the table says."""
    for name, parameter in model.named_parameters():
        std = initial_std(name, config)
        if std:
            parameter.normal_(mean=0.0, std=std)
        else:
            parameter.fill_(1.0)
