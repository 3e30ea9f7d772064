"""The audit of a model before update 0: is it one that can learn at all?

Every number is measured on the model object with one real batch, every problem is one plain
sentence. Only fresh weights are judged: training moves all of these numbers on purpose.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from melodac.models.condition import Condition, encode_texts, no_texts
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import DelayPattern
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.training.audit_gradients import find_silent_parameters
from melodac.training.audit_probe import Seen, watched
from melodac.training.audit_structure import (
    describe_model,
    find_misfits,
    find_structural_faults,
)
from melodac.training.loss import codebook_means, per_codebook_loss, total_loss
from melodac.training.module_norms import gradient_norms
from melodac.training.update import Part


class Bounds(NamedTuple):
    """Lowest and highest value that pass."""

    low: float
    high: float


_ATTENTION_STD = Bounds(0.5, 2.0)
"""Named sizes and patterns are at 0.8 to 1.1; a scale of 1 at 5.7 or more."""

_SUBLAYER_RATIO = Bounds(0.02, 6.0)
"""Named sizes and patterns are at 0.15 to 1.4, less the deeper the model, more the fewer codebooks
make the first stream."""

_ITEMS, _STEPS = 2, 512
"""Windows and steps that are looked at."""

_STAND_IN = "genre=waltz, instrument=piano, tempo_bpm=90"
"""What a model that reads texts is given to read."""


@dataclass(frozen=True)
class AuditLimits:
    """What a fresh model must keep to; every named size lies well inside."""

    attention_std: Bounds = _ATTENTION_STD
    """Standard deviation of attention logits: 1 for unit-size queries and keys."""
    largest_attention_logit: float = 30.0
    """Size of a logit beside which other keys are hardly seen."""
    sublayer_ratio: Bounds = _SUBLAYER_RATIO
    """Size of what a sublayer adds beside the stream it is added to."""
    total_loss: float = 0.25
    """Nats between the first loss and that of a uniform guess, over all codebooks."""
    codebook_loss: float = 0.5
    """The same for one codebook, which may hold one code over and over."""
    item_difference: float = 1e-3
    """Largest change of an item's logits when the other items of its batch change."""


@dataclass(frozen=True)
class AuditReport:
    """What the audit found."""

    numbers: dict[str, float]
    """Every measured value, by what it is and of which module."""
    facts: dict[str, str | int]
    """What the model is, read from the model itself."""
    problems: tuple[str, ...]
    """One plain sentence each; none if training may begin."""


def audit_start(
    model: LanguageModel,
    parts: Sequence[Part],
    pattern: DelayPattern,
    *,
    limits: AuditLimits = AuditLimits(),
) -> AuditReport:
    """Measure a fresh model; its weights stay as they are, its gradients are cleared.

    Args:
        model: Untrained, not compiled, not sharded.
        parts: Micro-batches of one update, as the trainer reads them; a piece of the first is
            enough, and fits where all of it would not fit in float32.
        pattern: Delay pattern of the codes.
        limits: What a fresh model must keep to.
    """
    misfits = find_misfits(model, pattern)
    if misfits:  # a pass would end in an error that says less
        return AuditReport({}, describe_model(model, Seen()), misfits)
    part = _cut(parts[0], pattern)
    was_training = model.training
    model.eval()
    model.zero_grad()
    seen, losses = _run_through(model, part)
    numbers = _numbers(seen, losses)
    numbers |= {f"gradient_norm.{name}": norm for name, norm in gradient_norms(model).items()}
    silent = find_silent_parameters(model, part)
    model.zero_grad()
    numbers["item_difference"] = _item_difference(model, part)
    model.train(was_training)
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


def _run_through(model: LanguageModel, part: Part) -> tuple[Seen, _Losses]:
    """Look into the first forward pass, add up the gradients of all."""
    seen = Seen()
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
    """A text for every item, then none: no batch of real texts is sure to hold both."""
    if model.text_encoder is None:
        return [None]
    device = model.embedding.weight.device
    text = encode_texts([_STAND_IN[: model.config.text_bytes]] * num_items, model.config.text_bytes)
    return [text.to(device), no_texts(num_items, device)]


def _numbers(seen: Seen, losses: _Losses) -> dict[str, float]:
    numbers = {"loss": losses.total}
    numbers |= {f"loss_k{codebook}": loss for codebook, loss in enumerate(losses.per_codebook)}
    for attention in seen.attention:
        numbers[f"attention_logit_std.{attention.name}"] = attention.std
        numbers[f"attention_logit_max.{attention.name}"] = attention.largest
    for sublayer in seen.sublayers:
        numbers[f"sublayer_ratio.{sublayer.name}"] = sublayer.ratio
    return numbers


def _judge_attention(seen: Seen, limits: AuditLimits) -> Iterator[str]:
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


def _judge_sublayers(seen: Seen, limits: AuditLimits) -> Iterator[str]:
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
    """Change of the first item's logits, in training mode, when its batch mates change."""
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
