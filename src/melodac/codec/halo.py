"""How far a convolutional network sees: what a piece must read to equal the whole.

A stack of convolutions maps positions linearly: output i reads inputs from `first` to `last`. From
these two numbers, worked out from kernel, stride, dilation and padding of every layer, follows the
halo: the frames a chunk must read beyond each end to give the same result as the whole recording.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from melodac.errors import CodecError


@dataclass(frozen=True)
class InputSpan:
    """Inputs that output 0 of a network reads, in input positions; output i reads i x step on."""

    first: Fraction
    last: Fraction
    step: Fraction
    """Input positions an output position: the hop for an encoder, its inverse for a decoder."""


def input_span(network: nn.Module) -> InputSpan:
    """Work out what output position 0 of a chain of one-dimensional convolutions reads.

    Residual branches that keep the length only add to the span of the chain they bypass.

    Raises:
        CodecError: The network has no convolution.
    """
    layers = [
        layer for layer in network.modules() if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d)
    ]
    if not layers:
        raise CodecError("a network without convolutions has no input span")
    first, last, step = Fraction(0), Fraction(0), Fraction(1)
    for layer in reversed(layers):
        padding = _only(layer.padding)
        reach = (layer.kernel_size[0] - 1) * layer.dilation[0]
        stride = layer.stride[0]
        if isinstance(layer, nn.ConvTranspose1d):
            # output o reads inputs i with 0 <= o + padding - i x stride <= reach
            first, last = (first + padding - reach) / stride, (last + padding) / stride
            step /= stride
        else:
            first, last = first * stride - padding, last * stride - padding + reach
            step *= stride
    return InputSpan(first, last, step)


def encoder_halo(encoder: nn.Module) -> int:
    """Frames an encoder reads beyond each end of a chunk."""
    span = input_span(encoder)
    before, after = -span.first / span.step, (span.last + 1) / span.step - 1
    return max(0, math.ceil(before), math.ceil(after))


def decoder_halo(decoder: nn.Module) -> int:
    """Frames a decoder reads beyond each end of a chunk."""
    span = input_span(decoder)
    hop = 1 / span.step
    last_sample = span.last + (hop - 1) * span.step
    return max(0, math.ceil(-span.first), math.ceil(last_sample))


def _only(padding: str | tuple[int, ...]) -> int:
    if isinstance(padding, str):
        raise CodecError(
            f"convolutions must name their padding in samples; this one says {padding!r}"
        )
    return padding[0]
