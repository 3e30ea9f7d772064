"""Optimizers, AdamW and Muon, behind one interface, and the EMA weights.

Optimizer state is stored under parameter names, not positions, so a checkpoint can be read by eye
and a model whose parameters moved is refused rather than mixed up.

Muon updates the matrices of the blocks with orthogonalised momentum. A fused matrix is
orthogonalised part by part: query, key and value, or gate and up, are different matrices that share
one multiplication. The EMA weights are a model of their own, so they can be validated and saved
without touching the model in training.
"""

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from melodac.errors import ConfigError
from melodac.models.attention import Attention, CrossAttention
from melodac.models.block import Block
from melodac.models.language_model import LanguageModel
from melodac.models.layers import FeedForward
from melodac.training.checkpoint import fill
from melodac.training.config import TrainConfig

MOMENTUM = 0.95
"""Momentum: decay of the mean gradient.

Source:
    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

PART_ROWS = "part_rows"
"""Key of a parameter group: rows of each part of its matrices; empty for one part."""


class PartedMuon(Muon):
    """torch's Muon, with each part of a fused matrix treated as a separate matrix.

    torch has no option for this, so the one method that lists the matrices is overridden. The
    learning rate is scaled by 0.2 sqrt(max(rows, columns)), which gives an update the root mean
    square of AdamW's, so that one learning rate and one weight decay serve both.

    Source:
        Jordan et al. 2024, as above; Liu et al. 2025 (arXiv:2502.16982), section 2.2, equation 4.
    """

    def _init_group(
        self,
        group: MutableMapping[str, Any],
        params_with_grad: list[Tensor],
        grads: list[Tensor],
        muon_momentum_bufs: list[Tensor],
    ) -> bool:
        matrices: list[Tensor] = []
        gradients: list[Tensor] = []
        buffers: list[Tensor] = []
        has_complex = super()._init_group(group, matrices, gradients, buffers)  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        for whole, listed in (
            (matrices, params_with_grad),
            (gradients, grads),
            (buffers, muon_momentum_bufs),
        ):
            for tensor in whole:
                # views: a write to a part is a write to the whole
                listed.extend(torch.split(tensor, group[PART_ROWS] or [tensor.shape[0]]))
        return has_complex


def build_muon(
    model: nn.Module, names: set[str], *, learning_rate: float, weight_decay: float
) -> PartedMuon:
    """Build Muon over some matrices of a model.

    Args:
        model: Model in training.
        names: Names of the matrices.
        learning_rate: Learning rate, as for AdamW.
        weight_decay: Weight decay, as for AdamW.

    Raises:
        ConfigError: If the matrices are sharded, since Muon needs whole ones.
    """
    weights = [weight for name, weight in model.named_parameters() if name in names]
    if any(isinstance(weight, DTensor) for weight in weights):
        raise ConfigError(
            "train.optimizer is muon and runtime.sharding is fsdp: muon needs whole matrices, "
            "use sharding ddp or optimizer adamw"
        )
    rows = fused_rows(model)
    kinds = sorted({rows.get(weight, ()) for weight in weights})
    return PartedMuon(
        [
            {"params": [w for w in weights if rows.get(w, ()) == kind], PART_ROWS: list(kind)}
            for kind in kinds
        ],
        lr=learning_rate,
        weight_decay=weight_decay,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )


def block_matrices(model: nn.Module) -> set[str]:
    """Return the names of the matrices in the blocks, which excludes embedding and head."""
    inside = {
        weight
        for block in model.modules()
        if isinstance(block, Block)
        for weight in block.parameters()
        if weight.dim() == 2
    }
    return {name for name, weight in model.named_parameters() if weight in inside}


def fused_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the rows of each part of every fused matrix."""
    rows: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        match module:
            case Attention():
                of_keys = module.num_kv_heads * module.head_dim
                parts = (module.num_heads * module.head_dim, of_keys, of_keys)
                rows[module.query_key_value.weight] = parts
            case CrossAttention():
                rows[module.key_value.weight] = _halves(module.key_value)
            case FeedForward():
                rows[module.gate_up.weight] = _halves(module.gate_up)
            case _:
                pass
    return rows


def _halves(layer: nn.Linear) -> tuple[int, int]:
    half = layer.out_features // 2
    return half, half


def decay_at(update: int, decay: float) -> float:
    """Return the share of the EMA weights that survives an update, raised slowly to `decay`.

    Without this warm-up a short run would still average in its random start.

    Source:
        TensorFlow `ExponentialMovingAverage(num_updates=...)`: min(decay, (1 + u) / (10 + u)).
    """
    return min(decay, (1 + update) / (10 + update))


class ExponentialAverage:
    """EMA weights: a model whose weights are a moving average of those in training."""

    def __init__(self, model: LanguageModel, decay: float) -> None:
        """Start as an exact copy.

        Args:
            model: Model in training.
            decay: Final share that survives an update, in [0, 1); 0 copies the model each time.
        """
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def update(self, model: LanguageModel, update: int) -> None:
        """Move the average towards the model after the update of that number."""
        share = 1.0 - decay_at(update, self.decay)
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, share)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)


class TrainOptimizer:
    """One or two torch optimizers that together hold every trainable parameter once."""

    def __init__(self, model: nn.Module, optimizers: tuple[Optimizer, ...]) -> None:
        """Take over optimizers that have not stepped yet.

        Their state is allocated at once, as zeros: a lack of memory shows before the first update,
        and a run whose first updates were refused can be saved and resumed like any other.

        Args:
            model: Model whose parameters they hold.
            optimizers: Optimizers; each parameter is in exactly one of them.
        """
        self.optimizers = optimizers
        self._names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
        for optimizer in optimizers:
            for weight in _parameters(optimizer):
                optimizer.state[weight] = _blank_memory(optimizer, weight)

    def step(self) -> None:
        """Update the parameters by their gradients."""
        for optimizer in self.optimizers:
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]  torch

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of every group for the coming update."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimizer state as `<kind>/<parameter name>`: tensors themselves, not copies.

        Those of a sharded model are sharded as its parameters are.
        """
        return {
            f"{kind}/{self._names[weight]}": value
            for optimizer in self.optimizers
            for weight in _parameters(optimizer)
            for kind, value in optimizer.state[weight].items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the optimizer state, on the device and in the sharding of each parameter.

        Tensors that are not exactly the state of these parameters raise
        `CheckpointMismatchError`.

        Args:
            tensors: Result of `tensors`, gathered.
        """
        fill(
            self.tensors(),
            tensors,
            misfit="the optimizer state does not fit this model",
            remedy="train afresh or use the model and the optimizer it was saved with",
        )


def build_optimizer(model: nn.Module, config: TrainConfig) -> TrainOptimizer:
    """Build the optimizer of a run over the trainable parameters of its model.

    Muon for a sharded model raises `ConfigError`.
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
    """Return the names of the parameters under weight decay.

    Norm scales, biases and other vectors are excluded, since they set a size, and so are rows of an
    embedding: they get a gradient only when their code occurs, but would decay at every update.
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
