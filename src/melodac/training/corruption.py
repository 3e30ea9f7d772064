"""Corruption of the model's inputs in training: random codes, or codes the model predicts itself.

Only inputs change, never targets, and only in training: validation does not use this module. Every
draw is a function of seed, update and item.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from melodac.errors import CheckpointMismatchError
from melodac.models.layers import evaluation_mode
from melodac.tokens.delay import is_code
from melodac.tokens.vocabulary import CODEBOOK_SIZE
from melodac.training.config import CorruptionConfig
from melodac.training.events import Event
from melodac.training.schedule import decayed, ramped
from melodac.training.seeding import build_generator


@runtime_checkable
class ReadPart(Protocol):
    """Part of a micro-batch that corruption reads; `training.data.Part` is one."""

    @property
    def items(self) -> range:
        """Numbers of its windows in the update."""
        ...

    @property
    def sequence(self) -> Int[Tensor, "B K S"]:
        """Delayed true codes."""
        ...

    @property
    def condition(self) -> object:
        """Texts of the items; None without."""
        ...


class Corruption:
    """Replacement of a share of the input codes in training.

    The model's own codes come from one more forward pass on the true codes: each replaced cell
    holds a code drawn at T = 1 from the prediction of that cell. That pass runs in evaluation mode,
    as generation does, and so draws no dropout: the draws of the training pass stay the same. It
    doubles the forward work of an update. Random codes come last and may hit such a cell too.

    Source:
        Bengio et al. 2015 (arXiv:1506.03099) for reading one's own codes; Mihaylova and Martins
        2019 (arXiv:1906.07651) for doing so in two parallel passes; Xie et al. 2017
        (arXiv:1703.02573) for random ones.
    """

    def __init__(self, config: CorruptionConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._are_own_codes_stopped = False

    @property
    def reads_own_codes(self) -> bool:
        """True if the model will read its own codes, now or later."""
        return bool(self._config.own_codes) and not self._are_own_codes_stopped

    def stop_own_codes(self, update: int) -> Event:
        """Stop replacing inputs by the model's own codes; return the event for the log.

        Args:
            update: Number of updates done.
        """
        self._are_own_codes_stopped = True
        return Event(
            "alarm",
            update,
            "the model reads none of its own codes from now on: what it says has become poor, and "
            "reading that would make it poorer (train.corruption.own_codes)",
        )

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON values."""
        return {"are_own_codes_stopped": self._are_own_codes_stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned.

        Raises:
            CheckpointMismatchError: If the key is missing.
        """
        if "are_own_codes_stopped" not in state:
            raise CheckpointMismatchError(
                "the corruption state of the checkpoint lacks are_own_codes_stopped: another "
                "version wrote it, start the run anew"
            )
        self._are_own_codes_stopped = bool(state["are_own_codes_stopped"])

    def inputs(self, model: nn.Module, part: ReadPart, *, update: int) -> Int[Tensor, "B K S"]:
        """Return the model's inputs for one micro-batch; the true codes if no corruption is on.

        Special tokens are never replaced, and no code is replaced by one.

        Args:
            model: Called with a sequence and a condition, only if own codes are read.
            part: The micro-batch.
            update: Number of the update, >= 1.
        """
        config = self._config
        own_share = 0.0
        if self.reads_own_codes:
            own_share = ramped(
                config.own_codes, update, config.own_codes_from, config.own_codes_updates
            )
        noise_share = decayed(config.token_noise, update, config.token_noise_updates)
        read = part.sequence
        if own_share:
            read = self._replace_by_own(model, part, own_share, update)
        if noise_share:
            read = self._replace_by_noise(read, part.items, noise_share, update)
        return read

    def _replace_by_own(
        self, model: nn.Module, part: ReadPart, share: float, update: int
    ) -> Int[Tensor, "B K S"]:
        logits = _predict(model, part)
        read = part.sequence.clone()
        for row, item in enumerate(part.items):
            chosen = _choose(read[row], share, build_generator(self._seed, "own", update, item))
            if not bool(chosen.any()):
                continue
            # only the chosen cells are drawn: probabilities of all cells would need far more memory
            generator = build_generator(self._seed, "own codes", update, item, device=read.device)
            # non-finite logits are not judged here: the training pass meets and reports them too
            probabilities = logits[row][chosen].float().nan_to_num().softmax(dim=-1)
            codes = torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
            read[row][chosen] = codes.to(read.dtype)
        return read

    def _replace_by_noise(
        self, read: Int[Tensor, "B K S"], items: range, share: float, update: int
    ) -> Int[Tensor, "B K S"]:
        noisy = read.clone()
        for row, item in enumerate(items):
            generator = build_generator(self._seed, "token noise", update, item)
            chosen = _choose(read[row], share, generator)
            codes = torch.randint(CODEBOOK_SIZE, chosen.shape, generator=generator)
            noisy[row] = torch.where(chosen, codes.to(read), read[row])
        return noisy


def _choose(
    cells: Int[Tensor, "K S"], share: float, generator: torch.Generator
) -> Bool[Tensor, "K S"]:
    """Choose the cells to replace: codes only, each with the same probability."""
    chosen = torch.rand(cells.shape, generator=generator) < share
    return chosen.to(cells.device) & is_code(cells)


@torch.no_grad()
def _predict(model: nn.Module, part: ReadPart) -> Tensor:
    with evaluation_mode(model):
        return model(part.sequence, part.condition)
