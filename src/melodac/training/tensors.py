"""Weights of a checkpoint put into a model, whether the model is whole or cut in shares.

All that generation, evaluation and demos need of training: no optimizer, no processes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from melodac.errors import CheckpointMismatchError
from melodac.models.language_model import LanguageModel
from melodac.training.checkpoint import Checkpoint


def load_weights(model: LanguageModel, checkpoint: Checkpoint, name: str) -> None:
    """Put the weights of `<name>.safetensors` into a model, every one or none.

    A tensor that is missing, left over or of another shape is `CheckpointMismatchError`.

    Args:
        model: A model of the checkpoint's config.
        checkpoint: An opened checkpoint.
        name: "ema" for the averaged weights, "model" for the raw ones.
    """
    fill(
        model.state_dict(),
        checkpoint.read_tensors(name),
        misfit=f"{checkpoint.folder} does not fit this model",
        remedy="build the model from the checkpoint's config",
    )


@torch.no_grad()
def fill(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], *, misfit: str, remedy: str
) -> None:
    """Put whole tensors into others of the same names, each cut as it is; all of them or none.

    Args:
        wanted: What is to be filled.
        found: What a checkpoint holds.
        misfit: What does not fit what, as a sentence.
        remedy: What to do then.

    Raises:
        CheckpointMismatchError: If a tensor is missing, left over or of another shape.
    """
    differing = sorted(
        key
        for key in found.keys() | wanted.keys()
        if key not in found or key not in wanted or found[key].shape != wanted[key].shape
    )
    if differing:
        raise CheckpointMismatchError(
            f"{misfit}: {len(differing)} tensors differ, the first is {differing[0]!r}; {remedy}"
        )
    for key, value in wanted.items():
        value.copy_(own_share(found[key], value))


def own_share(found: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as `like` is; needs no other process."""
    if not isinstance(like, DTensor):
        return found
    value = found.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself, or the whole of which it is this process's share."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
