"""Text conditioning with classifier-free guidance.

The guided logits are u + s (c - u): c the logits under the item's text, u those under the null
condition, which training shows by dropping texts, and s the guidance scale. s = 1 is plain
conditioning and costs one forward pass, s = 0 ignores the text, s above 1 exaggerates it.

Source:
    Ho and Salimans 2022 (arXiv:2207.12598), eq. 6, with s = 1 + w.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from melodac.errors import SamplingError
from melodac.models.cache import KeyValueCache
from melodac.models.condition import Condition
from melodac.models.language_model import LanguageModel


@dataclass(frozen=True)
class Guided:
    """Model with texts and a guidance scale; `generate` takes it in place of the plain model."""

    model: LanguageModel
    condition: Condition
    """Texts, one per item; an item without one is under the null condition."""
    scale: float = 1.0
    """Guidance scale, s in the guided logits."""
    has_trained_null: bool = False
    """True if the null condition was trained: `unconditional_frac` of the run was above 0."""

    def __post_init__(self) -> None:
        check_guidance(
            self.scale,
            reads_text=self.model.text_encoder is not None,
            has_trained_null=self.has_trained_null,
        )
        if self.model.text_encoder is None:
            raise SamplingError(
                "this model reads no text, so it cannot play to one: leave the text away or train "
                "a model with train.condition=tags"
            )


def check_guidance(scale: float, *, reads_text: bool, has_trained_null: bool) -> None:
    """Refuse a guidance scale that needs a null condition which the model never learned.

    Raises:
        SamplingError: If the scale is not 1 and the model has no trained null condition, or if it
            is not a finite number from 0.
    """
    if not 0 <= scale < math.inf:
        raise SamplingError(f"guidance must be finite and >= 0: got {scale}")
    if scale == 1:
        return
    if not reads_text:
        raise SamplingError(
            f"guidance {scale:g} needs a model that reads texts, this one reads codes alone: set "
            "guidance to 1 or train with train.condition=tags"
        )
    if not has_trained_null:
        raise SamplingError(
            f"guidance {scale:g} compares with the null condition, which this model never met "
            "(train.unconditional_frac = 0): set guidance to 1 or train with some "
            "unconditional_frac"
        )


def guide(
    conditional: Float[Tensor, "B K U"], unconditional: Float[Tensor, "B K U"], scale: float
) -> Float[Tensor, "B K U"]:
    """Return the guided logits, u + s (c - u).

    Example:
        >>> one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
        >>> [float(guide(one, zero, scale)) for scale in (0.0, 1.0, 3.0)]
        [0.0, 1.0, 3.0]
    """
    return unconditional + scale * (conditional - unconditional)


class Stepper:
    """Step-by-step decoder: the model, its KV cache and, where guidance needs it, a second pass."""

    def __init__(
        self, voice: LanguageModel | Guided, num_items: int, *, capacity: int, device: torch.device
    ) -> None:
        self.model = voice if isinstance(voice, LanguageModel) else voice.model
        self.scale = 1.0
        self.num_passes = 1
        condition = None
        if isinstance(voice, Guided):
            self.scale = voice.scale
            condition, self.num_passes = _conditions_to_run(voice)
            condition = condition.to(device)
        # the two passes of guidance are two halves of one batch, so both share one cache
        num_rows = num_items * self.num_passes
        self.cache = KeyValueCache(
            self.model.config,
            batch_size=num_rows,
            capacity=capacity,
            dtype=self.model.embedding.weight.dtype,
            device=device,
            memory=self.model.read(condition, num_rows),
        )

    def prefill(self, sequence: Int[Tensor, "B K S"]) -> None:
        """Read the known steps into the cache."""
        self.model.prefill(sequence.repeat(self.num_passes, 1, 1), self.cache)

    def step(
        self, previous: Int[Tensor, "B K"], codebooks: Sequence[int]
    ) -> Float[Tensor, "B ... U"] | None:
        """Return the logits of some codebooks at the next step; None if none is needed.

        Args:
            previous: Cells of the step before.
            codebooks: Codebooks that are needed, in ascending order.
        """
        hidden = self.model.step_hidden(previous.repeat(self.num_passes, 1), self.cache)
        if not codebooks:
            return None
        logits = self._logits(hidden, codebooks)
        if self.num_passes == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return guide(conditional, unconditional, self.scale)

    def _logits(
        self, hidden: Float[Tensor, "B 1 D"], codebooks: Sequence[int]
    ) -> Float[Tensor, "B ... U"]:
        tables = self.model.tables_of(self.cache)
        if len(codebooks) == 1:  # every step of a flat pattern: a K-th of the head is enough
            return self.model.codebook_logits(hidden, codebooks[0], tables)
        logits = self.model.logits(hidden, tables).squeeze(2)
        return logits if len(codebooks) == logits.shape[1] else logits[:, list(codebooks)]


def _conditions_to_run(voice: Guided) -> tuple[Condition, int]:
    """Return the texts of every row of the model's batch, and the number of rows per item."""
    if voice.scale == 1:
        return voice.condition, 1
    dropped = voice.condition.dropped()
    # at scale 0 the text has no effect, so a single pass under the null condition is enough
    if voice.scale == 0:
        return dropped, 1
    return Condition(torch.cat([voice.condition.text, dropped.text])), 2
