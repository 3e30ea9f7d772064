"""Measurements inside a model, by hooks only: independent of the model's code.

Hooks measure what every sublayer adds to the residual stream; a torch function mode measures every
call of attention, scale and mask included. So the model is measured as it is, even if it differs
from its description. Norms of gradients and weights are given by module: the embedding, each
sublayer and norm of each block, the head. They need named tensors only, so a checkpoint works too.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from melodac.models.layers import RMSNorm


def module_of(name: str) -> str:
    """Return the module that a parameter belongs to, by the parameter's name.

    Example:
        >>> [module_of(name) for name in ("blocks.3.attention.output.weight", "head.weight")]
        ['blocks.3.attention', 'head']
    """
    parts = name.split(".")
    numbered = [index for index, part in enumerate(parts[:-1]) if part.isdigit()]
    return ".".join(parts[: numbered[0] + 2]) if numbered else parts[0]


def norms_by_module(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the Euclidean norm over all tensors of each module, in float64, in the given order."""
    squares: defaultdict[str, float] = defaultdict(float)
    for name, tensor in tensors.items():
        squares[module_of(name)] += float(tensor.detach().double().square().sum())
    return {name: math.sqrt(square) for name, square in squares.items()}


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Return the norm of each module's gradients; a missing gradient counts as zero."""
    return norms_by_module({
        name: torch.zeros(()) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    })


def codebook_norms(weight: Tensor, num_codebooks: int) -> Float64[Tensor, " K"]:
    """Return the norm of each codebook's rows in a table with one codebook after another."""
    return weight.detach().double().view(num_codebooks, -1).square().sum(dim=1).sqrt()


_MAX_LOGITS = 2**24
"""Most attention logits measured in one layer; the remaining items are left out."""

_QUIET = (RMSNorm, nn.LayerNorm, nn.Dropout)
"""Parts of a block that add nothing to the residual stream by themselves."""


_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Arguments of torch's attention that may be positional."""


class AttentionRecord(NamedTuple):
    """Measurement of one call of attention."""

    name: str
    """Name of the module that called it."""
    head_dim: int
    scale: float
    """Factor on the dot products, as used in the call."""
    std: float
    """Standard deviation of the logits of visible keys."""
    largest: float
    """Largest absolute logit of a visible key."""


class SublayerRecord(NamedTuple):
    """Measurement of one sublayer of a block."""

    name: str
    rms: float
    """Root mean square of the sublayer's output."""
    stream_rms: float
    """Root mean square of the residual stream that enters its block."""

    @property
    def ratio(self) -> float:
        """Size of the sublayer's output relative to the residual stream."""
        return self.rms / self.stream_rms if self.stream_rms else math.inf


@dataclass
class ForwardRecord:
    """Measurements of one forward pass, in the order of the calls."""

    attention: list[AttentionRecord] = field(default_factory=list[AttentionRecord])
    sublayers: list[SublayerRecord] = field(default_factory=list[SublayerRecord])
    called: list[str] = field(default_factory=list[str])
    """Names of all modules that were called."""


@contextmanager
def watched(model: nn.Module, seen: ForwardRecord) -> Generator[None]:
    """Record everything the model does in a with-block; hooks are removed afterwards."""
    callers: list[str] = []
    streams: dict[str, float] = {}
    blocks = block_names(model)

    def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            callers.append(name)
            seen.called.append(name)
            if name in blocks:
                streams[name] = root_mean_square(inputs[0])

        return hook

    def leave(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            callers.pop()
            # only direct children of a block are sublayers
            block = name.rpartition(".")[0]
            if block in streams and not isinstance(module, _QUIET) and isinstance(output, Tensor):
                found = SublayerRecord(name, root_mean_square(output), streams[block])
                seen.sublayers.append(found)

        return hook

    handles = [
        handle
        for name, module in named_modules(model)
        for handle in (
            module.register_forward_pre_hook(enter(name)),
            module.register_forward_hook(leave(name)),
        )
    ]
    try:
        with AttentionWatch(lambda call: seen.attention.append(_measure(callers[-1], call))):
            yield
    finally:
        for handle in handles:
            handle.remove()


def block_names(model: nn.Module) -> list[str]:
    """Return the names of the members of every module list."""
    return [
        f"{name}.{index}"
        for name, module in named_modules(model)
        if isinstance(module, nn.ModuleList)
        for index in range(len(module))
    ]


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every module by name; the model itself has the empty name."""
    return [*model.named_modules()]  # pyright: ignore[reportUnknownVariableType]  untyped in torch


def root_mean_square(values: Tensor) -> float:
    """Return the root mean square in float32, whatever the type of the values."""
    return float(values.detach().float().square().mean().sqrt())


class AttentionWatch(TorchFunctionMode):
    """Function mode that shows the arguments of every call of attention before it runs.

    The model computes as before. Nothing is recorded inside compiled blocks.
    """

    def __init__(self, on_call: Callable[[dict[str, Any]], None]) -> None:
        """Watch the calls in a with-block.

        Args:
            on_call: Called with the arguments of each call, by name.
        """
        super().__init__()
        self._on_call = on_call

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401  torch's own signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is functional.scaled_dot_product_attention:
            with torch.no_grad():
                self._on_call(dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {}))
        return func(*args, **(kwargs or {}))


def _measure(name: str, call: dict[str, Any]) -> AttentionRecord:
    query: Float[Tensor, "B H S E"] = call["query"]
    key: Float[Tensor, "B G M E"] = call["key"]
    _, H, S, E = query.shape
    # as many items as fit the limit, at least one
    items = max(1, _MAX_LOGITS // (H * S * key.shape[2]))
    scale = 1 / math.sqrt(E) if call.get("scale") is None else float(call["scale"])
    keys = key[:items].float().repeat_interleave(H // key.shape[1], dim=1)
    logits = query[:items].float() @ keys.transpose(-1, -2) * scale
    is_causal = bool(call.get("is_causal"))
    shown = logits[_visible(logits, call.get("attn_mask"), is_causal=is_causal)]
    return AttentionRecord(
        name,
        head_dim=E,
        scale=scale,
        std=float(shown.std(correction=0)),
        largest=float(shown.abs().max()),
    )


def _visible(
    logits: Float[Tensor, "B H S M"], mask: Tensor | None, *, is_causal: bool
) -> Bool[Tensor, "B H S M"]:
    visible = torch.ones_like(logits, dtype=torch.bool)
    if is_causal:
        visible = visible.tril()
    if mask is not None:
        # a mask without an item axis broadcasts, so there is nothing to cut
        items = slice(len(logits)) if mask.dim() == logits.dim() else slice(None)
        allowed = mask if mask.dtype == torch.bool else mask > -torch.inf
        visible &= allowed[items]
    return visible
