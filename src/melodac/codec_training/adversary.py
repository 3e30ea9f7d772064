"""`Adversary`: discriminators that learn beside the codec, and what they make the codec pay.

Least-squares adversarial loss and feature matching, as in DAC. On a CPU judging costs more than
decoding, so each update may be judged by a few discriminators drawn at random: terms then stand for
all of them on average.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from melodac.codec_training.config import AdversarialConfig
from melodac.codec_training.discriminator import Discriminator, Maps


@dataclass(frozen=True)
class AdversarialTerms:
    """What the codec pays, unweighted; sums over discriminators as DAC reports them."""

    adversarial: Float[Tensor, ""]
    """Squared distance of the verdicts on the reconstruction from `real`."""
    feature: Float[Tensor, ""]
    """Absolute difference of the feature maps, a mean for each map, summed."""


class Adversary:
    """Discriminators and their optimiser; begun afresh, deterministically, from a seed."""

    def __init__(self, config: AdversarialConfig, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]  untyped
            torch.default_generator.manual_seed(seed)
            self.discriminator = Discriminator(config.shape)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.8, 0.99)
        )
        self.updates = 0
        """Updates the discriminators have learned for."""

    def draw(self, generator: torch.Generator) -> list[int]:
        """Choose the discriminators of one update."""
        total = len(self.discriminator.discriminators)
        drawn = min(self.config.drawn or total, total)
        if drawn == total:
            return list(range(total))
        return sorted(int(index) for index in torch.randperm(total, generator=generator)[:drawn])

    def learn(
        self, real: Float[Tensor, "B 1 N"], fake: Float[Tensor, "B 1 N"], judges: list[int]
    ) -> tuple[float, list[Maps]]:
        """Make one step; return the loss, and what the judges saw in `real`, without gradient."""
        self.discriminator.requires_grad_(requires_grad=True)
        of_real = self.discriminator(real, judges)
        of_fake = self.discriminator(fake.detach(), judges)
        loss = real.new_zeros(())
        for ours, theirs in zip(of_fake, of_real, strict=True):
            loss = loss + ours[-1].square().mean() + (1 - theirs[-1]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        nn.utils.clip_grad_norm_(
            self.discriminator.parameters(), self.config.gradient_clip, error_if_nonfinite=True
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        self.updates += 1
        return loss.item(), [[one.detach() for one in maps] for maps in of_real]

    def terms(
        self, fake: Float[Tensor, "B 1 N"], of_real: list[Maps], judges: list[int]
    ) -> AdversarialTerms:
        """Measure the reconstruction; differentiable in it, not in the discriminators."""
        self.discriminator.requires_grad_(requires_grad=False)
        adversarial, feature = fake.new_zeros(()), fake.new_zeros(())
        for ours, theirs in zip(self.discriminator(fake, judges), of_real, strict=True):
            adversarial = adversarial + (1 - ours[-1]).square().mean()
            for one, other in zip(ours[:-1], theirs[:-1], strict=True):
                feature = feature + (one - other).abs().mean()
        share = len(judges) / len(self.discriminator.discriminators)
        return AdversarialTerms(adversarial / share, feature / share)

    @property
    def is_leading(self) -> bool:
        """Whether the discriminators still learn alone."""
        return self.updates <= self.config.lead_updates

    def content(self) -> dict[str, Any]:
        """Everything a resumed run needs, as plain tensors and numbers."""
        return {
            "shape": self.config.shape.model_dump_json(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def fits(self, content: dict[str, Any]) -> bool:
        """Whether saved discriminators have the shape of these."""
        return content["shape"] == self.config.shape.model_dump_json()

    def restore(self, content: dict[str, Any]) -> None:
        """Take over what `content` gave."""
        self.discriminator.load_state_dict(content["discriminator"], strict=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.updates = content["updates"]
