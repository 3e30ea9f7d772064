"""`compile_network`: a codec's network as machine code of its own, for long jobs on a CPU.

Convolutions become two-dimensional with channels last, the layout their fastest kernels want, and
torch's compiler fuses the activations between them. It takes half a minute and a C++ compiler, or
seconds where TORCHINDUCTOR_CACHE_DIR holds an earlier result.
"""

import copy
import os
import shutil
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from melodac.codec.architecture import Snake
from melodac.codec.exact import Network
from melodac.errors import CodecError

PAYS_FROM_S = 3600.0
"""Seconds of audio from which compiling takes less time than it saves."""


class _Compile(Protocol):
    """What is used of `torch.compile`, whose own signature is too wide to be checked."""

    def __call__(self, model: nn.Module, *, dynamic: bool, options: dict[str, bool]) -> Network:
        """Return the compiled model."""
        ...


def can_compile() -> bool:
    """Whether there is the C++ compiler that torch would call."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_network(network: nn.Module) -> Network:
    """Compile a frozen chain of one-dimensional convolutions; the first call takes the time.

    Call the result with one shape only, as each takes a compilation of its own.

    Raises:
        CodecError: There is no C++ compiler, or the network is not on a CPU.
    """
    if not can_compile():
        raise CodecError(
            "compiling the codec needs a C++ compiler and there is none: install g++, or load the "
            "codec with compiled=False (about a quarter slower, equal codes)"
        )
    if next(network.parameters()).device.type != "cpu":
        raise CodecError("only a codec on a CPU is compiled: load it with compiled=False")
    # freezing lays the weights out once, not at every call
    compiled = cast("_Compile", torch.compile)(
        channels_last(network), dynamic=False, options={"freezing": True}
    )

    def run(x: Tensor) -> Tensor:
        wide = x[:, :, None].contiguous(memory_format=torch.channels_last)
        return compiled(wide)[:, :, 0].contiguous()

    return run


def channels_last(network: nn.Module) -> nn.Module:
    """Copy a network of one-dimensional layers as a two-dimensional one of height 1."""
    network = copy.deepcopy(network)
    _widen(network)
    return network


class _WideSnake(nn.Module):
    """Snake in the form that the compiler fuses."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha[..., None].clone())
        self.register_buffer("reciprocal", (alpha + 1e-9).reciprocal()[..., None].clone())

    def forward(self, x: Tensor) -> Tensor:
        sine = torch.sin(self.get_buffer("alpha") * x)
        return x + self.get_buffer("reciprocal") * sine * sine


def _widen(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv1d):
            module.add_module(name, _wide_convolution(child))
        elif isinstance(child, Snake):
            module.add_module(name, _WideSnake(child.alpha.detach()))
        else:
            _widen(child)


def _wide_convolution(layer: nn.Conv1d) -> nn.Conv2d:
    wide = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (1, layer.kernel_size[0]),
        stride=(1, layer.stride[0]),
        padding=(0, int(layer.padding[0])),
        dilation=(1, layer.dilation[0]),
    )
    weight = layer.weight.detach()[:, :, None].contiguous(memory_format=torch.channels_last)
    wide.weight, wide.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    return wide
