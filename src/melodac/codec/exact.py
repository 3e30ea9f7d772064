"""`ExactEncoder`: codes that do not depend on rounding; `compile_network`: a faster encoder for it.

The last bits of a convolution depend on its shape, the threads, the compiler and the machine, and
so now and then does the nearest of two nearly equal candidates. So a frame whose best two
candidates are closer than float32 can resolve is decided in float64. This also allows a compiled
encoder, for long jobs on a CPU: convolutions become two-dimensional with channels last, the layout
of their fastest kernels, and torch's compiler fuses the activations between them. Compiling takes
half a minute and a C++ compiler, or seconds if TORCHINDUCTOR_CACHE_DIR holds an earlier result.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from melodac.codec.architecture import DacModel, DacQuantizer, Snake
from melodac.errors import CodecError

TOLERANCE = 1.2e-6
"""Assumed error of a projected latent, relative to the latent's norm times the projection's.

Measured, not proven: the largest seen in 12 s of music is 6e-7 eager and 9e-7 compiled, at the
official size with stand-in weights. A larger tolerance costs time, as more frames need float64."""

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Choice:
    """Nearest codes, and the frames whose choice float32 cannot decide."""

    codes: Int64[Tensor, "B K T"]
    is_close: Bool[Tensor, "B T"]


class Chooser:
    """Search of DAC's residual quantizer: nearest by cosine, one codebook after another."""

    def __init__(self, quantizer: DacQuantizer) -> None:
        self._stages = list(quantizer.quantizers)
        self._units = [functional.normalize(stage.codebook.weight) for stage in self._stages]
        # largest singular value: the most that the projection can amplify an error
        self._gains = [
            float(np.linalg.norm(stage.in_proj.get_parameter("weight")[..., 0].cpu().numpy(), 2))
            for stage in self._stages
        ]

    def choose(self, latents: Float[Tensor, "B D T"]) -> Choice:
        """Choose the codes of every frame and mark the frames that are too close to call."""
        residual, size = latents, _norm(latents, dim=1)
        codes: list[Tensor] = []
        is_close = torch.zeros_like(size, dtype=torch.bool)
        for stage, units, gain in zip(self._stages, self._units, self._gains, strict=True):
            projected = stage.in_proj(residual).transpose(1, 2)
            best, second, margin = _best_two(projected @ units.T)
            apart = _norm(units[best] - units[second], dim=-1)
            # the tenth is for the rounding of the products themselves
            is_close |= margin <= TOLERANCE * gain * size * (apart + 0.1)
            codes.append(best)
            # the residual uses the vector as stored, the search above its unit vector: DAC does so
            residual = residual - stage.out_proj(stage.codebook(best).transpose(1, 2))
        return Choice(torch.stack(codes, dim=1), is_close)


class ExactEncoder:
    """Encoder and quantizer of a DAC, with the codes that exact arithmetic would give."""

    def __init__(self, model: DacModel, *, hop: int, halo: int) -> None:
        self._model, self._hop, self._halo = model, hop, halo
        self._chooser = Chooser(model.quantizer)

    def encode(
        self,
        audio: Float[Tensor, "B 1 N"],
        kept: Sequence[slice],
        network: Network,
    ) -> Int64[Tensor, "B K T"]:
        """Encode windows of audio.

        Args:
            audio: Windows that reach the halo beyond the frames kept, or to the recording's end.
            kept: Frames of each window that are used; the others may be inexact.
            network: The encoder, or a faster one that equals it up to rounding.
        """
        choice = self._chooser.choose(network(audio))
        codes, num_frames = choice.codes, choice.is_close.shape[1]
        for row, frames in enumerate(kept):
            close = choice.is_close[row, frames].nonzero()[:, 0] + frames.start
            for run in _runs(close.tolist(), self._halo):
                start = max(0, run[0] - self._halo)
                stop = min(num_frames, run[-1] + self._halo + 1)
                window = audio[row : row + 1, :, start * self._hop : stop * self._hop]
                exact = self._encode_exactly(window)
                codes[row][:, run] = exact[:, [frame - start for frame in run]]
        return codes

    def _encode_exactly(self, audio: Tensor) -> Tensor:
        model, chooser = self._exact
        return chooser.choose(model(audio.double())).codes[0]

    @cached_property
    def _exact(self) -> tuple[Network, Chooser]:
        """Copies of encoder and search in float64, made when the first frame needs them."""
        quantizer = copy.deepcopy(self._model.quantizer)
        for stage in quantizer.quantizers:
            for module in (stage.in_proj, stage.out_proj, stage.codebook):
                module.double()
        return copy.deepcopy(self._model.encoder).double(), Chooser(quantizer)


def _norm(x: Tensor, dim: int) -> Tensor:
    return x.square().sum(dim).sqrt()


def _best_two(likeness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of the two largest along the last axis, and their difference."""
    first, best = likeness.max(dim=-1)
    others = likeness.scatter(-1, best[..., None], float("-inf"))
    next_to, second = others.max(dim=-1)
    return best, second, first - next_to


def _runs(frames: list[int], halo: int) -> Iterator[list[int]]:
    """Group frames whose windows overlap, to encode each group at once."""
    run: list[int] = []
    for frame in frames:
        if run and frame - run[-1] > 2 * halo:
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


PAYS_FROM_S = 3600.0
"""Seconds of audio from which compiling saves more time than it takes."""


class _CompileNetwork(Protocol):
    """Signature of `torch.compile` as used here; its own is too wide to be type-checked."""

    def __call__(self, model: nn.Module, *, dynamic: bool, options: dict[str, bool]) -> Network:
        """Return the compiled model."""
        ...


def can_compile() -> bool:
    """Check if the C++ compiler that torch would call exists."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_network(network: nn.Module) -> Network:
    """Compile a frozen chain of one-dimensional convolutions; the first call does the work.

    Call the result with one shape only: each new shape is compiled anew.

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
    # freezing makes the weights constants, so their layout is converted once, not at every call
    compiled = cast("_CompileNetwork", torch.compile)(
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
    """Snake in a form that torch's compiler fuses."""

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
