"""Slow reference of a network's receptive field: which inputs have a gradient."""

import torch
from torch import nn


def inputs_read(network: nn.Module, length: int, channels: int, output: int) -> tuple[int, int]:
    """First and last input position that output position `output` depends on."""
    torch.manual_seed(0)
    x = torch.randn(1, channels, length, dtype=torch.float64, requires_grad=True)
    network.double()(x)[0, :, output].sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1)).nonzero().flatten()
    return int(touched[0]), int(touched[-1])
