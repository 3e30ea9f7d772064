"""What can be wrong with a model before anything is computed, and what the model is."""

from collections import Counter, defaultdict
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  all of them

from melodac.errors import ModelError
from melodac.models.config import count_parameters
from melodac.models.initialization import initial_std
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.tokens.vocabulary import CODEBOOK_SIZE, VOCABULARY_SIZE
from melodac.training.audit_probe import Seen, block_names, named_modules

_STD_FACTOR = 2.0
"""A fresh matrix may be so much larger or smaller than the table says."""


def find_misfits(model: LanguageModel, pattern: DelayPattern) -> tuple[str, ...]:
    """Sentences about types and shapes with which nothing can be computed."""
    return (*_types(model), *_shapes(model, pattern))


def find_structural_faults(model: LanguageModel) -> tuple[str, ...]:
    """Sentences about frozen parameters, batch statistics and initial sizes."""
    return (*_frozen(model), *_batch_statistics(model), *_initial_sizes(model))


def describe_model(model: LanguageModel, seen: Seen) -> dict[str, str | int]:
    """Facts read from the model object and from what one pass of it called."""
    facts: dict[str, str | int] = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "parameter_types": ", ".join(sorted({_name(w.dtype) for w in model.parameters()})),
    }
    for name, weight in model.named_parameters():
        key = f"parameters.{name.partition('.')[0]}"
        facts[key] = int(facts.get(key, 0)) + weight.numel()
    orders: defaultdict[str, list[str]] = defaultdict(list)
    for block in block_names(model):
        called = [name for name in seen.called if name.rpartition(".")[0] == block]
        orders[" > ".join(name.rpartition(".")[2] for name in called)].append(block)
    for order, blocks in orders.items():
        facts[f"order.{blocks[0]}" + (f" to {blocks[-1]}" if blocks[1:] else "")] = order
    return facts


def _types(model: nn.Module) -> Iterator[str]:
    others = {
        name: _name(weight.dtype)
        for name, weight in model.named_parameters()
        if weight.dtype != torch.float32
    }
    if others:
        counts = ", ".join(f"{count} {dtype}" for dtype, count in Counter(others.values()).items())
        first = next(iter(others))
        yield (
            f"parameters must all be float32, {counts} are among them, the first is {first}: "
            "choose a compute type by train.compute.precision, not by the type of weights"
        )


def _frozen(model: nn.Module) -> Iterator[str]:
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            yield f"{name} is frozen: every parameter is trained, set requires_grad"


def _batch_statistics(model: nn.Module) -> Iterator[str]:
    for name, module in named_modules(model):
        if isinstance(module, _BatchNorm):
            yield (
                f"{name} is a {type(module).__name__}, whose output depends on the batch: use "
                "RMSNorm"
            )


def _shapes(model: LanguageModel, pattern: DelayPattern) -> Iterator[str]:
    config = model.config
    K = config.num_codebooks
    if pattern.num_codebooks != K:
        yield (
            f"the model has {K} codebooks, delay {pattern.name!r} has {pattern.num_codebooks}: "
            "build the model from the pattern"
        )
    for name, weight, rows in (
        ("embedding", model.embedding.weight, K * VOCABULARY_SIZE),
        ("head", model.head.weight, K * CODEBOOK_SIZE),
    ):
        if weight is None:  # the head has no rows of its own
            continue
        if tuple(weight.shape) != (rows, config.dim):
            yield (
                f"{name}.weight has shape {tuple(weight.shape)}, {K} codebooks at width "
                f"{config.dim} need {(rows, config.dim)}: build it from the config"
            )
    found, expected = sum(w.numel() for w in model.parameters()), count_parameters(config).total
    if found != expected:
        yield (
            f"the model has {found} parameters, its config stands for {expected}: what is built "
            "is not what the config says"
        )


def _initial_sizes(model: LanguageModel) -> Iterator[str]:
    for name, weight in model.named_parameters():
        try:
            expected = initial_std(name, model.config)
        except ModelError as error:
            yield str(error)
            continue
        found = float(weight.detach().float().std(correction=0))
        if expected and not expected / _STD_FACTOR <= found <= expected * _STD_FACTOR:
            yield (
                f"{name} has standard deviation {found:.3g}, the initialisation table says "
                f"{expected:.3g}: initialise it by the table"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
