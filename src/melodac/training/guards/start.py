"""Audit of a model before update 0: can it learn at all?

Every number is measured on the model object with one real batch, every problem is one plain
sentence. Only fresh weights are judged: training changes all of these numbers on purpose.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]  all of them

from melodac.errors import ModelError
from melodac.models.condition import Condition, encode_texts, no_texts
from melodac.models.config import count_parameters
from melodac.models.initialization import initial_std
from melodac.models.language_model import LanguageModel, shift_right
from melodac.models.layers import evaluation_mode
from melodac.tokens.delay import DelayPattern
from melodac.tokens.vocabulary import CODEBOOK_SIZE, VOCABULARY_SIZE
from melodac.training.data import Part
from melodac.training.guards.model_probe import (
    ForwardRecord,
    block_names,
    codebook_norms,
    gradient_norms,
    named_modules,
    watched,
)
from melodac.training.loss import codebook_means, per_codebook_loss, total_loss

_STD_FACTOR = 2.0
"""Allowed factor between a fresh matrix's deviation and the table's, in either direction."""


def find_misfits(model: LanguageModel, pattern: DelayPattern) -> tuple[str, ...]:
    """Return sentences about types and shapes that make a forward pass impossible."""
    return (*_types(model), *_shapes(model, pattern))


def find_structural_faults(model: LanguageModel) -> tuple[str, ...]:
    """Return sentences about frozen parameters, batch statistics and initial sizes."""
    return (*_frozen(model), *_batch_statistics(model), *_initial_sizes(model))


def describe_model(model: LanguageModel, seen: ForwardRecord) -> dict[str, str | int]:
    """Return facts read from the model object and from the modules that one pass called."""
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


def find_silent_parameters(model: LanguageModel, part: Part) -> Iterator[str]:
    """Return sentences about parameters, heads and embedding rows without gradient.

    Args:
            model: Model after a backward pass.
            part: Micro-batch of that pass.
    """
    return iter([*_parameters(model), *_heads(model), *_rows(model, part)])


def _parameters(model: LanguageModel) -> Iterator[str]:
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue  # already reported as frozen
        if weight.grad is None:
            yield f"{name} receives no gradient: the loss does not depend on it, remove or use it"
        elif not bool(weight.grad.any()):
            yield (
                f"the gradient of {name} is exactly zero: what follows it is zero or cut off, look "
                "at its initialisation and at detach"
            )


def _heads(model: LanguageModel) -> Iterator[str]:
    # rows or biases: both are ordered by codebook in every embedding mode
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
    """Return True for the steps at which or after which a counted cell lies."""
    # a running "or" from the last step backwards
    return counted.any(dim=1).flip(-1).cummax(dim=-1).values.flip(-1)


class Bounds(NamedTuple):
    """Lowest and highest value that pass."""

    low: float
    high: float


_ATTENTION_STD = Bounds(0.5, 2.0)
"""Bounds of the deviation: named sizes and patterns have 0.8 to 1.1, a scale of 1 at least 5.7."""

_SUBLAYER_RATIO = Bounds(0.02, 6.0)
"""Bounds of the sublayer ratio: named sizes and patterns have 0.15 to 1.4, less for deeper models,
more if fewer codebooks make up the first stream."""

_ITEMS, _STEPS = 2, 512
"""Windows, and steps of each, that are measured."""

_STAND_IN = "genre=waltz, instrument=piano, tempo_bpm=90"
"""Text given to a model that reads texts."""


@dataclass(frozen=True)
class AuditLimits:
    """Limits for a fresh model; every named size lies well inside."""

    attention_std: Bounds = _ATTENTION_STD
    """Standard deviation of attention logits: 1 for unit-size queries and keys."""
    largest_attention_logit: float = 30.0
    """Largest absolute logit; beyond it softmax nearly ignores the other keys."""
    sublayer_ratio: Bounds = _SUBLAYER_RATIO
    """Size of a sublayer's output relative to the residual stream that enters its block."""
    total_loss: float = 0.25
    """Nats between the first loss and that of a uniform guess, over all codebooks."""
    codebook_loss: float = 0.5
    """Limit of that difference for one codebook, which may hold a single code over and over."""
    item_difference: float = 1e-3
    """Largest change of an item's logits when the other items of its batch change."""


@dataclass(frozen=True)
class AuditReport:
    """Measurements and problems that the audit found."""

    numbers: dict[str, float]
    """Measured values, by kind and module."""
    facts: dict[str, str | int]
    """Facts about the model, read from the model itself."""
    problems: tuple[str, ...]
    """Problems, one plain sentence each; empty if training may begin."""


def audit_start(
    model: LanguageModel,
    parts: Sequence[Part],
    pattern: DelayPattern,
    *,
    limits: AuditLimits = AuditLimits(),
) -> AuditReport:
    """Measure a fresh model; weights stay as they are, gradients are cleared.

    Args:
        model: Untrained, not compiled, not sharded.
        parts: Micro-batches of one update, as the trainer reads them; a piece of the first one is
            used, which fits in memory in float32 even if the whole does not.
        pattern: Delay pattern of the codes.
        limits: Limits for a fresh model.
    """
    misfits = find_misfits(model, pattern)
    if misfits:  # a forward pass would end in an error that says less
        return AuditReport({}, describe_model(model, ForwardRecord()), misfits)
    part = _cut(parts[0], pattern)
    with evaluation_mode(model):
        model.zero_grad()
        seen, losses = _run_through(model, part)
        numbers = _numbers(seen, losses)
        numbers |= {f"gradient_norm.{name}": norm for name, norm in gradient_norms(model).items()}
        silent = find_silent_parameters(model, part)
        model.zero_grad()
        numbers["item_difference"] = _item_difference(model, part)
    problems = (
        *find_structural_faults(model),
        *_judge_attention(seen, limits),
        *_judge_sublayers(seen, limits),
        *_judge_losses(losses, limits),
        *silent,
        *_judge_items(numbers["item_difference"], limits),
    )
    return AuditReport(numbers, describe_model(model, seen), problems)


class _Losses(NamedTuple):
    total: float
    per_codebook: list[float]


def _cut(part: Part, pattern: DelayPattern) -> Part:
    steps = max(_STEPS, pattern.num_steps(1))
    return Part(
        part.index,
        part.items[:_ITEMS],
        part.sequence[:_ITEMS, :, :steps],
        part.counted[:_ITEMS, :, :steps],
    )


def _run_through(model: LanguageModel, part: Part) -> tuple[ForwardRecord, _Losses]:
    """Record the first forward pass and sum the gradients of all passes."""
    seen = ForwardRecord()
    sums: list[tuple[Tensor, Tensor]] = []
    for index, condition in enumerate(_conditions(model, len(part.sequence))):
        with nullcontext() if index else watched(model, seen):
            logits = model(part.sequence, condition)
        nats, counts = per_codebook_loss(logits, part.sequence, part.counted)
        total_loss(nats, counts).backward()  # pyright: ignore[reportUnknownMemberType]  torch
        sums.append((nats.detach(), counts))
    nats = torch.stack([nats for nats, _ in sums]).sum(dim=0)
    counts = torch.stack([counts for _, counts in sums]).sum(dim=0)
    return seen, _Losses(float(total_loss(nats, counts)), codebook_means(nats, counts))


def _conditions(model: LanguageModel, num_items: int) -> list[Condition | None]:
    """Return a text for every item, then none: a batch of real texts need not hold both."""
    if model.text_encoder is None:
        return [None]
    device = model.embedding.weight.device
    text = encode_texts([_STAND_IN[: model.config.text_bytes]] * num_items, model.config.text_bytes)
    return [text.to(device), no_texts(num_items, device)]


def _numbers(seen: ForwardRecord, losses: _Losses) -> dict[str, float]:
    numbers = {"loss": losses.total}
    numbers |= {f"loss_k{codebook}": loss for codebook, loss in enumerate(losses.per_codebook)}
    for attention in seen.attention:
        numbers[f"attention_logit_std.{attention.name}"] = attention.std
        numbers[f"attention_logit_max.{attention.name}"] = attention.largest
    for sublayer in seen.sublayers:
        numbers[f"sublayer_ratio.{sublayer.name}"] = sublayer.ratio
    return numbers


def _judge_attention(seen: ForwardRecord, limits: AuditLimits) -> Iterator[str]:
    low, high = limits.attention_std
    for layer in seen.attention:
        standard = 1 / math.sqrt(layer.head_dim)
        if not math.isclose(layer.scale, standard, rel_tol=1e-6):
            yield (
                f"{layer.name} scales its logits by {layer.scale:.4g}, the standard for heads of "
                f"width {layer.head_dim} is {standard:.4g}: do not pass a scale"
            )
        if not low <= layer.std <= high:
            yield (
                f"{layer.name} has attention logits of standard deviation {layer.std:.3g}, it must "
                f"be between {low} and {high}: look at the scale and at the size of queries and "
                "keys"
            )
        if not layer.largest <= limits.largest_attention_logit:
            yield (
                f"{layer.name} has an attention logit of size {layer.largest:.3g}, at most "
                f"{limits.largest_attention_logit} passes: normalise queries and keys"
            )


def _judge_sublayers(seen: ForwardRecord, limits: AuditLimits) -> Iterator[str]:
    low, high = limits.sublayer_ratio
    for sublayer in seen.sublayers:
        if not low <= sublayer.ratio <= high:
            verdict = "is nearly dead" if sublayer.ratio < low else "drowns its stream"
            yield (
                f"{sublayer.name} {verdict}: it adds {sublayer.ratio:.3g} times the size of the "
                f"stream, between {low} and {high} passes: look at the initialisation of its "
                "matrices"
            )


def _judge_losses(losses: _Losses, limits: AuditLimits) -> Iterator[str]:
    uniform = math.log(CODEBOOK_SIZE)
    if not abs(losses.total - uniform) <= limits.total_loss:
        yield (
            f"the first loss is {losses.total:.3f} nats per code, a uniform guess has "
            f"{uniform:.3f}: make the head smaller at the start"
        )
    for codebook, loss in enumerate(losses.per_codebook):
        if not abs(loss - uniform) <= limits.codebook_loss:
            yield (
                f"codebook {codebook} has a first loss of {loss:.3f} nats per code, a uniform "
                f"guess has {uniform:.3f}: look at its rows of the head"
            )


@torch.no_grad()
def _item_difference(model: LanguageModel, part: Part) -> float:
    """Return the change of the first item's logits, in training mode, when other items change."""
    # training mode, since batch statistics act there only; dropout is switched off again
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    first = part.sequence[:1]
    mates = [part.sequence[:1].flip(-1), part.sequence[:1].roll(1, -1)]
    logits = [model(torch.cat([first, mate]))[0] for mate in mates]
    return float((logits[0] - logits[1]).abs().max())


def _judge_items(difference: float, limits: AuditLimits) -> Iterator[str]:
    if not difference <= limits.item_difference:
        yield (
            f"an item's logits change by {difference:.3g} with the other items of its batch: "
            "no module may mix items, such as batch statistics do"
        )
