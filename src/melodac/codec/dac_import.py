"""The only module that imports the `dac` package, whatever the state of torchaudio.

`dac` imports audiotools, which imports torchaudio just by being imported; DAC itself needs nothing
of it. torchaudio may be absent, unloadable (its libraries miss CUDA's) or built for another CUDA
version than torch. In these three cases an empty stand-in takes its place while `dac` is imported
and is removed again. Every other error passes through.
"""

import importlib
import importlib.machinery
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

_TORCHAUDIO = "torchaudio"


@runtime_checkable
class DacQuantizerStage(Protocol):
    """One stage of DAC's residual quantiser: factorised, cosine-matched codes."""

    in_proj: nn.Module
    out_proj: nn.Module
    codebook: nn.Embedding

    def decode_latents(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codebook vectors and their indices."""
        ...


@runtime_checkable
class DacQuantizer(Protocol):
    """DAC's residual quantiser."""

    quantizers: list[DacQuantizerStage]

    def __call__(
        self, z: Tensor, n_quantizers: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return quantised latents, codes, projected latents and the two losses."""
        ...

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the quantised latents that the codes stand for, first."""
        ...


@runtime_checkable
class DacModel(Protocol):
    """What this project uses of `dac.model.dac.DAC`."""

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
    """Return DAC's Snake activation class, to be replaced by a faster equal."""
    dac_model_class()
    return cast("type[nn.Module]", importlib.import_module("dac.nn.layers").Snake1d)


def build_dac(**kwargs: object) -> nn.Module:
    """Construct a `dac` DAC with random weights."""
    model_class = dac_model_class()
    with _without_deprecations():
        return model_class(**kwargs)


@contextmanager
def _without_deprecations() -> Generator[None]:
    """Keep quiet what `dac` and audiotools use of old interfaces; their users cannot change it."""
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
    """Whether the real torchaudio can be imported; leaves no half-imported module behind."""
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
    """Whether an error says that torchaudio is absent, unloadable or of another CUDA version."""
    if isinstance(error, ModuleNotFoundError):
        return error.name == _TORCHAUDIO
    return isinstance(error, OSError) or "CUDA version" in str(error)
