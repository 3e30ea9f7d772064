"""`Adversary`: discriminators trained together with the codec, and their terms of its loss.

Least-squares adversarial loss and feature matching, as in DAC. On a CPU the discriminators cost
more than decoding, so each update may use a few of them drawn at random; terms are scaled so that
they equal those of all discriminators on average.
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
    """Unweighted adversarial terms of the codec's loss; sums over discriminators, as in DAC."""

    adversarial: Float[Tensor, ""]
    """Squared distance of the outputs on the reconstruction from 1, the label of real audio."""
    feature: Float[Tensor, ""]
    """Absolute difference of the feature maps, a mean for each map, summed."""


class Adversary:
    """Discriminators and their optimizer, initialised deterministically from a seed."""

    def __init__(self, config: AdversarialConfig, seed: int) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]  untyped
            torch.default_generator.manual_seed(seed)
            self.discriminator = Discriminator(config.shape)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.8, 0.99)
        )
        self.updates = 0
        """Updates of the discriminators so far."""

    def draw(self, generator: torch.Generator) -> list[int]:
        """Draw the indices of the discriminators of one update."""
        total = len(self.discriminator.discriminators)
        drawn = min(self.config.drawn or total, total)
        if drawn == total:
            return list(range(total))
        return sorted(int(index) for index in torch.randperm(total, generator=generator)[:drawn])

    def learn(
        self, real: Float[Tensor, "B 1 N"], fake: Float[Tensor, "B 1 N"], judges: list[int]
    ) -> tuple[float, list[Maps]]:
        """Update the discriminators; return the loss and their maps of `real`, without gradient."""
        self.discriminator.requires_grad_(requires_grad=True)
        of_real = self.discriminator(real, judges)
        of_fake = self.discriminator(fake.detach(), judges)
        loss = real.new_zeros(())
        for ours, theirs in zip(of_fake, of_real, strict=True):
            # least squares: the target is 0 for a reconstruction and 1 for real audio
            loss = loss + ours[-1].square().mean() + (1 - theirs[-1]).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        nn.utils.clip_grad_norm_(
            self.discriminator.parameters(), self.config.gradient_clip, error_if_nonfinite=True
        )
        for group in self.optimizer.param_groups:
            # set at every update, since a restored optimizer state brings its own learning rate
            group["lr"] = self.config.learning_rate
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]  untyped in torch
        self.updates += 1
        return loss.item(), [[one.detach() for one in maps] for maps in of_real]

    def terms(
        self, fake: Float[Tensor, "B 1 N"], of_real: list[Maps], judges: list[int]
    ) -> AdversarialTerms:
        """Return the terms of the codec's loss; no gradient reaches the discriminators' weights."""
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
        """True while the discriminators train alone, before the codec's loss includes them."""
        return self.updates <= self.config.lead_updates

    def content(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as plain tensors and numbers."""
        return {
            "shape": self.config.shape.model_dump_json(),
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
        }

    def fits(self, content: dict[str, Any]) -> bool:
        """Check if saved discriminators have the shape of these."""
        return content["shape"] == self.config.shape.model_dump_json()

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the state that `content` returned."""
        self.discriminator.load_state_dict(content["discriminator"], strict=True)
        self.optimizer.load_state_dict(content["optimizer"])
        self.updates = content["updates"]
