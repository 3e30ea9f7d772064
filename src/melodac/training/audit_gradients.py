"""Which parameters one batch does not teach: those that no gradient reaches."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from melodac.models.language_model import LanguageModel, shift_right
from melodac.training.module_norms import codebook_norms
from melodac.training.update import Part


def find_silent_parameters(model: LanguageModel, part: Part) -> Iterator[str]:
    """Sentences about parameters, heads and embedding rows without gradient.

    Args:
        model: Holds the gradients.
        part: What was read.
    """
    return iter([*_parameters(model), *_heads(model), *_rows(model, part)])


def _parameters(model: LanguageModel) -> Iterator[str]:
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue  # said already: it is frozen
        if weight.grad is None:
            yield f"{name} receives no gradient: the loss does not depend on it, remove or use it"
        elif not bool(weight.grad.any()):
            yield (
                f"the gradient of {name} is exactly zero: what follows it is zero or cut off, look "
                "at its initialisation and at detach"
            )


def _heads(model: LanguageModel) -> Iterator[str]:
    # what is sure to be of one codebook after another, whatever its rows are made of
    rows = model.head.bias if model.head.weight is None else model.head.weight
    gradient = None if rows is None else rows.grad
    if gradient is None or not bool(gradient.any()):
        return
    for codebook, norm in enumerate(codebook_norms(gradient, model.config.num_codebooks)):
        if not norm:
            yield (
                f"the head of codebook {codebook} receives no gradient: its logits are not what "
                "its rows compute, or none of its cells is counted"
            )


def _rows(model: LanguageModel, part: Part) -> Iterator[str]:
    gradient = model.embedding.weight.grad
    if gradient is None or not bool(gradient.any()):
        return
    read = torch.zeros(len(gradient), dtype=torch.bool, device=gradient.device)
    rows = shift_right(part.sequence) + model.offsets.unsqueeze(1)
    read[rows.transpose(1, 2)[_matters(part.counted)].flatten()] = True
    silent = read & ~gradient.any(dim=1)
    if bool(silent.any()):
        yield (
            f"{int(silent.sum())} of {int(read.sum())} embedding rows that were read receive no "
            f"gradient, the first is row {int(silent.nonzero()[0])}: look at what reads them"
        )


def _matters(counted: Bool[Tensor, "B K S"]) -> Bool[Tensor, "B S"]:
    """True for the steps that a counted cell, there or later, may read."""
    return counted.any(dim=1).flip(-1).cummax(dim=-1).values.flip(-1)
