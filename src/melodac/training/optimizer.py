"""AdamW, or Muon beside it, behind one interface, with its memory as plain named tensors.

Memory is stored under parameter names, not positions, so a checkpoint can be read by eye and a
model whose parameters moved is refused rather than mixed up.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from melodac.training.config import TrainConfig
from melodac.training.muon import block_matrices, build_muon
from melodac.training.sharding import fill


class TrainOptimizer:
    """One or two torch optimizers that together change every trainable parameter once."""

    def __init__(self, model: nn.Module, optimizers: tuple[Optimizer, ...]) -> None:
        """Take over optimizers that have not stepped yet.

        Their memory is laid out at once, as zeros: what runs out of it does so before the first
        update, and a run whose first updates were refused has a checkpoint like any other.

        Args:
            model: The model whose parameters they hold.
            optimizers: Each parameter in exactly one of them.
        """
        self.optimizers = optimizers
        self._names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
        for optimizer in optimizers:
            for weight in _parameters(optimizer):
                optimizer.state[weight] = _blank_memory(optimizer, weight)

    def step(self) -> None:
        """Change the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]  torch

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def set_learning_rate(self, rate: float) -> None:
        """Give every group the rate of the coming update."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def tensors(self) -> dict[str, Tensor]:
        """Every moment and step count, as `<kind>/<parameter name>`; not copies.

        Of a sharded model they are sharded as the parameters are.
        """
        return {
            f"{kind}/{self._names[weight]}": value
            for optimizer in self.optimizers
            for weight in _parameters(optimizer)
            for kind, value in optimizer.state[weight].items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put everything back, each on its parameter's device and sharded as it is.

        Tensors that are not exactly the memory of these parameters are refused with
        `CheckpointMismatchError`.

        Args:
            tensors: What `tensors` gave, gathered whole.
        """
        fill(
            self.tensors(),
            tensors,
            misfit="the optimizer state does not fit this model",
            remedy="train afresh or use the model and the optimizer it was saved with",
        )


def build_optimizer(model: nn.Module, config: TrainConfig) -> TrainOptimizer:
    """The optimizer of a run over the trainable parameters of its model.

    Muon over a sharded model is refused with `ConfigError`.
    """
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    by_muon = block_matrices(model) & trained if config.optimizer == "muon" else set[str]()
    optimizers: list[Optimizer] = [_build_adamw(model, trained - by_muon, config)]
    if by_muon:
        optimizers.append(
            build_muon(
                model,
                by_muon,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
            )
        )
    return TrainOptimizer(model, tuple(optimizers))


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay pulls on.

    Norm scales, biases and other vectors set a size, and a row of an embedding is only touched when
    its code occurs: pulling those to zero shrinks them for no reason.
    """
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return {
        name
        for name, weight in model.named_parameters()
        if weight.dim() >= 2 and not any(weight is embedding for embedding in embeddings)
    }


def _build_adamw(model: nn.Module, names: set[str], config: TrainConfig) -> AdamW:
    decayed = decayed_names(model)
    named = [(name, weight) for name, weight in model.named_parameters() if name in names]
    groups = [
        {
            "params": [weight for name, weight in named if name in decayed],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [weight for name, weight in named if name not in decayed],
            "weight_decay": 0.0,
        },
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=1e-8,
        fused=True,
    )


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _blank_memory(optimizer: Optimizer, weight: Tensor) -> dict[str, Any]:
    if not isinstance(optimizer, AdamW):
        return {"momentum_buffer": torch.zeros_like(weight)}
    return {
        "step": torch.zeros((), device=weight.device),
        "exp_avg": torch.zeros_like(weight),
        "exp_avg_sq": torch.zeros_like(weight),
    }
