"""Muon for the matrices of the blocks: momentum whose directions are made equally strong.

A fused matrix is orthogonalised part by part: query, key and value, or gate and up, are different
matrices that share one multiplication.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Muon

from melodac.errors import ConfigError
from melodac.models.attention import Attention, CrossAttention
from melodac.models.block import Block
from melodac.models.layers import FeedForward

MOMENTUM = 0.95
"""Memory of the gradient.

Source:
    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

PART_ROWS = "part_rows"
"""Key of a parameter group: rows of each part of its matrices; none for one part."""


class PartedMuon(Muon):
    """torch's Muon, with each part of a fused matrix as a matrix of its own.

    Torch has no way to say this from outside, so the one method that lists the matrices is
    replaced. The learning rate is scaled by 0.2 sqrt(max(rows, columns)), which gives an update the
    root mean square of AdamW's, so that one rate and one weight decay serve both.

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
                # views: what is written to a part is written to the whole
                listed.extend(torch.split(tensor, group[PART_ROWS] or [tensor.shape[0]]))
        return has_complex


def build_muon(
    model: nn.Module, names: set[str], *, learning_rate: float, weight_decay: float
) -> PartedMuon:
    """Muon over some matrices of a model.

    Args:
        model: The model.
        names: Names of the matrices.
        learning_rate: As of AdamW.
        weight_decay: As of AdamW.

    Raises:
        ConfigError: If the matrices are spread over processes, which see parts of rows only.
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
    """Names of the matrices in the blocks; embedding and head hold a row for each single code."""
    inside = {
        weight
        for block in model.modules()
        if isinstance(block, Block)
        for weight in block.parameters()
        if weight.dim() == 2
    }
    return {name for name, weight in model.named_parameters() if weight in inside}


def fused_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Rows of each part, of every matrix that holds more than one."""
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
