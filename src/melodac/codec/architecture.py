"""`DacArchitecture`: the shape of a DAC, bounded, and the modules built from it.

Weights files name their architecture; bounds here keep a foreign file from asking for terabytes.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from melodac.codec.dac_import import build_dac, dac_snake_class
from melodac.config import Section

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
    """Dimensions in which a code is looked up."""
    sample_rate: Annotated[int, Field(ge=1000, le=384_000)]
    """Samples a second."""

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.encoder_rates)


class Snake(nn.Module):
    """`x + sin(alpha x)^2 / alpha` per channel; in place where no gradient is needed.

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
