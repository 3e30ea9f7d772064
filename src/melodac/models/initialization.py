"""Initialisation of every parameter: one table, executed; no library default remains.

Unit-size activations in, unit-size activations out: every matrix gets a standard deviation of one
over the square root of its inputs, the two matrices that write to the residual stream shrink with
depth, and the head is so small that the first loss is that of a uniform guess.
"""

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import nn

from melodac.errors import ModelError
from melodac.models.code_tables import LEARNED_START, VECTOR_SIZE
from melodac.models.config import LanguageModelConfig, TransformerConfig

_Rule = Callable[[TransformerConfig], float]

_TEXT_ENCODER = "text_encoder."
"""Prefix of the parameters of the text encoder, which follow the same table at their own shape."""


def _learned_row(config: TransformerConfig) -> float:
    """Return the deviation of a learned row, which may be a small addition to a projected one."""
    has_vectors = isinstance(config, LanguageModelConfig) and config.vector_dim > 0
    return (LEARNED_START if has_vectors else 1.0) / math.sqrt(config.dim)


def _vector_to_row(config: TransformerConfig) -> float:
    """Return the deviation at which projected rows are as large as learned ones."""
    if not isinstance(config, LanguageModelConfig):
        raise ModelError("only a model of codes has code vectors")
    return 1 / (VECTOR_SIZE * math.sqrt(config.vector_dim * config.dim))


def _into_residual(fan_in: int, config: TransformerConfig) -> float:
    """Return the deviation at which the sum over all sublayers is of about unit size."""
    return 1 / math.sqrt(fan_in * config.num_sublayers)


INITIAL_STD = MappingProxyType[str, _Rule]({
    "embedding.weight": _learned_row,
    "geometry.embedding": _vector_to_row,
    "geometry.head": lambda config: 0.1 * _vector_to_row(config),
    "attention.query_key_value.weight": lambda config: 1 / math.sqrt(config.dim),
    "attention.output.weight": lambda config: _into_residual(config.dim, config),
    "cross_attention.query.weight": lambda config: 1 / math.sqrt(config.dim),
    "cross_attention.key_value.weight": lambda config: 1 / math.sqrt(config.memory_dim),
    "feedforward.gate_up.weight": lambda config: 1 / math.sqrt(config.dim),
    "feedforward.down.weight": lambda config: _into_residual(config.ff_dim, config),
    "head.weight": lambda config: 0.1 / math.sqrt(config.dim),
    "head.bias": lambda _config: 0.0,
    "byte_table.weight": lambda _config: 1.0,
    "null": lambda _config: 1.0,
    "norm.weight": lambda _config: 0.0,
})
"""Standard deviation by the end of a parameter's name; 0 marks a constant start."""


def initial_constant(name: str) -> float:
    """Return the start of a parameter whose deviation is 0: 0 for a bias, 1 for a scale."""
    return 0.0 if name.endswith("bias") else 1.0


def initial_std(name: str, config: TransformerConfig) -> float:
    """Return the standard deviation that the table gives to a parameter.

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
    """Draw every parameter anew from torch's global generator, by the rule of the table."""
    for name, parameter in model.named_parameters():
        std = initial_std(name, config)
        if std:
            parameter.normal_(mean=0.0, std=std)
        else:
            parameter.fill_(initial_constant(name))
