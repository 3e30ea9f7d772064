"""All initialisation of a model: one table, executed; nothing keeps a library's default.

Unit-size activations in, unit-size activations out: every matrix gets one over the square root of
its inputs, the two matrices that write to the residual stream are smaller the deeper the model, and
the head is so small that the first loss is that of a uniform guess.
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
"""Where the names of a second, smaller stack begin; the same table holds for it."""


def _learned_row(config: TransformerConfig) -> float:
    """A code's learned row: all there is of it, or a small part beside what its vector makes."""
    has_vectors = isinstance(config, LanguageModelConfig) and config.vector_dim > 0
    return (LEARNED_START if has_vectors else 1.0) / math.sqrt(config.dim)


def _vector_to_row(config: TransformerConfig) -> float:
    """Of a matrix that makes rows of vectors: rows as large as learned ones."""
    if not isinstance(config, LanguageModelConfig):
        raise ModelError("only a model of codes has code vectors")
    return 1 / (VECTOR_SIZE * math.sqrt(config.vector_dim * config.dim))


def _into_residual(fan_in: int, config: TransformerConfig) -> float:
    """One output for each sublayer: together they add up to a stream of about unit size."""
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
"""Standard deviation by the end of a parameter's name; 0 marks one that starts at a constant."""


def initial_constant(name: str) -> float:
    """Value at which a parameter starts whose deviation is 0: 1 for a scale, 0 for an offset."""
    return 0.0 if name.endswith("bias") else 1.0


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
            parameter.fill_(initial_constant(name))
