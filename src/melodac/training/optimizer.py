"""AdamW with the parameter groups that matter, and its moments as plain named tensors.

Moments are stored under parameter names, not positions, so a checkpoint can be read by eye and a
model whose parameters moved is refused rather than mixed up. Only training imports this file.
"""

from torch import Tensor, nn
from torch.optim import AdamW

from melodac.errors import CheckpointMismatchError
from melodac.training.config import TrainConfig

_KINDS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps for each parameter."""


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over the trainable parameters; matrices decay, everything else does not."""
    decayed = decayed_names(model)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
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


def set_learning_rate(optimizer: AdamW, learning_rate: float) -> None:
    """Give every group the rate of the coming update."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(optimizer: AdamW, model: nn.Module) -> dict[str, Tensor]:
    """Every moment and step count, as `<kind>/<parameter name>`; empty before the first update."""
    return {
        f"{kind}/{name}": value
        for name, weight in model.named_parameters()
        if weight in optimizer.state
        for kind, value in optimizer.state[weight].items()
    }


def load_optimizer_tensors(optimizer: AdamW, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the moments back, each on its parameter's device.

    Raises:
        CheckpointMismatchError: If the tensors are not exactly the moments of these parameters.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    differing = sorted(set(tensors) ^ {f"{kind}/{name}" for kind in _KINDS for name in weights})
    if differing:
        raise CheckpointMismatchError(
            f"the optimizer state does not fit this model: {len(differing)} tensors differ, "
            f"the first is {differing[0]!r}; train afresh or use the model it was saved with"
        )
    for name, weight in weights.items():
        optimizer.state[weight] = {
            kind: tensors[f"{kind}/{name}"].to(weight.device, copy=True) for kind in _KINDS
        }
