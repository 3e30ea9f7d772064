"""`DacArchitecture`: the bounded shape of a DAC, and the modules built from it.

Weights files name their architecture; bounds here keep a foreign file from asking for terabytes.

Only this module imports the `dac` package. `dac` imports audiotools, which imports torchaudio on
import although DAC needs nothing of it. torchaudio may be absent, unloadable (its libraries miss
CUDA's) or built for another CUDA version than torch. In these three cases an empty stand-in takes
its place while `dac` is imported and is removed again. Every other error passes through.
"""

import importlib
import importlib.machinery
import math
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Annotated, Protocol, cast, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from melodac.config import Section

_TORCHAUDIO = "torchaudio"


@runtime_checkable
class DacQuantizerStage(Protocol):
    """One stage of DAC's residual quantizer: factorised, cosine-matched codes."""

    in_proj: nn.Module
    out_proj: nn.Module
    codebook: nn.Embedding


@runtime_checkable
class DacQuantizer(Protocol):
    """Residual quantizer of DAC."""

    quantizers: list[DacQuantizerStage]

    def __call__(
        self, z: Tensor, n_quantizers: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return quantised latents, codes, projected latents and the two losses."""
        ...

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the quantized latents of the codes, as the first of three tensors."""
        ...


@runtime_checkable
class DacModel(Protocol):
    """Part of `dac.model.dac.DAC` that this project uses."""

    encoder: nn.Module
    decoder: nn.Module
    quantizer: DacQuantizer


@cache
def dac_model_class() -> type[nn.Module]:
    """Import `dac` once and return its `DAC` class."""
    with _importable_torchaudio(), _without_deprecations():
        module = importlib.import_module("dac.model.dac")
    return cast("type[nn.Module]", module.DAC)


@cache
def dac_snake_class() -> type[nn.Module]:
    """Return DAC's Snake activation class, which `Snake` replaces with a faster equal."""
    dac_model_class()
    return cast("type[nn.Module]", importlib.import_module("dac.nn.layers").Snake1d)


def build_dac(**kwargs: object) -> nn.Module:
    """Construct a `dac` DAC with random weights."""
    model_class = dac_model_class()
    with _without_deprecations():
        return model_class(**kwargs)


@contextmanager
def _without_deprecations() -> Generator[None]:
    """Silence deprecation warnings from `dac` and audiotools, which users of melodac cannot fix."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def _importable_torchaudio() -> Generator[None]:
    """Put an empty torchaudio in place while the real one cannot be imported."""
    if _torchaudio_imports():
        yield
        return
    stand_in = ModuleType(_TORCHAUDIO)
    stand_in.__spec__ = importlib.machinery.ModuleSpec(_TORCHAUDIO, loader=None)
    sys.modules[_TORCHAUDIO] = stand_in
    try:
        yield
    finally:
        del sys.modules[_TORCHAUDIO]


def _torchaudio_imports() -> bool:
    """Check if the real torchaudio can be imported; leave no half-imported module behind."""
    before = set(sys.modules)
    try:
        importlib.import_module(_TORCHAUDIO)
    except (ModuleNotFoundError, OSError, RuntimeError) as error:
        if not _is_unusable_torchaudio(error):
            raise
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == _TORCHAUDIO:
                del sys.modules[name]
        return False
    return True


def _is_unusable_torchaudio(error: Exception) -> bool:
    """Check if an error means that torchaudio is absent, unloadable or of another CUDA version."""
    if isinstance(error, ModuleNotFoundError):
        return error.name == _TORCHAUDIO
    return isinstance(error, OSError) or "CUDA version" in str(error)


_Channels = Annotated[int, Field(ge=1, le=4096)]
_Rates = Annotated[
    tuple[Annotated[int, Field(ge=2, le=64, multiple_of=2)], ...], Field(min_length=1, max_length=8)
]


class DacArchitecture(Section):
    """Constructor arguments of a DAC that melodac accepts."""

    encoder_dim: _Channels
    """Channels at full rate; doubled by each encoder block."""
    encoder_rates: _Rates
    """Strides of the encoder blocks."""
    latent_dim: _Channels
    """Channels of one latent frame."""
    decoder_dim: _Channels
    """Channels at frame rate; halved by each decoder block."""
    decoder_rates: _Rates
    """Strides of the decoder blocks."""
    n_codebooks: Annotated[int, Field(ge=1, le=32)]
    codebook_size: Annotated[int, Field(ge=2, le=65536)]
    codebook_dim: Annotated[int, Field(ge=1, le=256)]
    """Width of the space in which the nearest code is searched."""
    sample_rate: Annotated[int, Field(ge=1000, le=384_000)]
    """Sample rate, in Hz."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.encoder_rates)


class Snake(nn.Module):
    """Snake activation, `x + sin(alpha x)^2 / alpha` per channel; in place without gradients.

    Source: DAC's `Snake1d`; equal to it bit for bit.
    """

    alpha: nn.Parameter

    def __init__(self, alpha: nn.Parameter) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Activate `x` of shape B C N."""
        reciprocal = (self.alpha + 1e-9).reciprocal()
        if torch.is_grad_enabled():
            return x + reciprocal * torch.sin(self.alpha * x).pow(2)
        return (self.alpha * x).sin_().square_().mul_(reciprocal).add_(x)


def build_model(architecture: DacArchitecture) -> nn.Module:
    """Build a DAC with random weights and melodac's Snake.

    State dict names stay those of `dac`, so its weights files load unchanged.
    """
    kwargs = architecture.model_dump()
    for name in ("encoder_rates", "decoder_rates"):
        kwargs[name] = list(kwargs[name])
    model = build_dac(**kwargs)
    _replace_snakes(model)
    return model


def _replace_snakes(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, dac_snake_class()):
            module.add_module(name, Snake(child.get_parameter("alpha")))
        else:
            _replace_snakes(child)
