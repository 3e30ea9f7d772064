"""Sizes by module: of gradients, of weights, of one update; a number where a fault would show.

A module is the embedding, each sublayer and norm of each block, the head: the parts that a reader
knows by name. Works on named tensors, so on a checkpoint as well as on a model.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Float64
from torch import Tensor, nn


def module_of(name: str) -> str:
    """The module that a parameter belongs to, by the parameter's name.

    Example:
        >>> [module_of(name) for name in ("blocks.3.attention.output.weight", "head.weight")]
        ['blocks.3.attention', 'head']
    """
    parts = name.split(".")
    numbered = [index for index, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[: numbered[0] + 2]) if numbered else parts[0]


def norms_by_module(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Euclidean norm of each module's tensors together, in float64, in the order of the names."""
    squares: defaultdict[str, float] = defaultdict(float)
    for name, tensor in tensors.items():
        squares[module_of(name)] += float(tensor.detach().double().square().sum())
    return {name: math.sqrt(square) for name, square in squares.items()}


def weight_norms(model: nn.Module) -> dict[str, float]:
    """Norm of each module's weights."""
    return norms_by_module(dict(model.named_parameters()))


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Norm of each module's gradients; a parameter that has none counts as zero."""
    return norms_by_module({
        name: torch.zeros(()) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    })


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as they are now, for `update_norms`."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def update_norms(model: nn.Module, before: Mapping[str, Tensor]) -> dict[str, float]:
    """Norm of each module's change since `copy_weights`."""
    return norms_by_module({
        name: weight.detach() - before[name] for name, weight in model.named_parameters()
    })


def ratios(part: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    """Each module's first number over its second; 0 over 0 is 0.

    Example:
        >>> ratios({"head": 1.0, "norm": 0.0}, {"head": 4.0, "norm": 0.0})
        {'head': 0.25, 'norm': 0.0}
    """
    return {
        name: value / whole[name] if whole[name] else (math.inf if value else 0.0)
        for name, value in part.items()
    }


def codebook_norms(weight: Tensor, num_codebooks: int) -> Float64[Tensor, " K"]:
    """Norm of each codebook's rows in a table that holds one codebook after another."""
    return weight.detach().double().view(num_codebooks, -1).square().sum(dim=1).sqrt()
