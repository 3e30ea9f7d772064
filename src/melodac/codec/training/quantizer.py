"""Care of the residual quantiser in training: forward with dropout, initialisation, revival.

Codebooks trained from random vectors collapse to a few codes, and by gradient they lag behind an
encoder that still moves. Here each stage starts from the principal directions and the clusters of
the residual it will see, follows its latents as running means, and codes that fall out of use move
to latents that occur. Only the codec's training imports this.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from melodac.codec.dac_import import DacQuantizer, DacQuantizerStage


@dataclass(frozen=True)
class Quantized:
    """What one pass through the quantiser gives."""

    latents: Float[Tensor, "B D T"]
    """Sum of the stages in use, with straight-through gradient."""
    codes: Int[Tensor, "B K T"]
    projected: list[Float[Tensor, "B _ T"]]
    """Latents of each stage in codebook space, without gradient."""
    commitment_loss: Float[Tensor, ""]
    codebook_loss: Float[Tensor, ""]
    """Of the same value; its gradient moves the codebooks where they learn by gradient."""


def quantize(
    quantizer: DacQuantizer, latents: Float[Tensor, "B D T"], depths: Int[Tensor, " B"]
) -> Quantized:
    """Quantise with the first `depths[b]` stages for crop b; later stages still see residuals."""
    total, residual = torch.zeros_like(latents), latents
    codes: list[Tensor] = []
    projected: list[Tensor] = []
    commitment_loss, codebook_loss = latents.new_zeros(()), latents.new_zeros(())
    for index, stage in enumerate(quantizer.quantizers):
        used = (depths > index).to(latents.dtype)
        query = stage.in_proj(residual)
        vector, code = stage.decode_latents(query)
        commitment_loss = commitment_loss + (_error(query, vector.detach()) * used).mean()
        codebook_loss = codebook_loss + (_error(query.detach(), vector) * used).mean()
        output = stage.out_proj(query + (vector - query).detach())
        total = total + output * used[:, None, None]
        residual = residual - output
        codes.append(code)
        projected.append(query.detach())
    return Quantized(total, torch.stack(codes, 1), projected, commitment_loss, codebook_loss)


def draw_depths(
    batch_size: int, num_stages: int, dropout: float, generator: torch.Generator
) -> Int[Tensor, " B"]:
    """Draw the number of stages of each crop: all, or for a share `dropout` any number."""
    depths = torch.full((batch_size,), num_stages)
    some = torch.rand(batch_size, generator=generator) < dropout
    anything = torch.randint(1, num_stages + 1, (batch_size,), generator=generator)
    return torch.where(some, anything, depths)


@torch.no_grad()
def initialize_quantizer(
    quantizer: DacQuantizer, latents: Float[Tensor, "N D"], generator: torch.Generator
) -> None:
    """Fit every stage to latents of real audio, each to what the stages before leave over."""
    residual = latents
    for stage in quantizer.quantizers:
        _fit_projections(stage, residual)
        query = stage.in_proj(residual.t()[None])
        stage.codebook.weight.copy_(
            _cosine_clusters(query[0].t(), stage.codebook.num_embeddings, generator)
        )
        vector, _ = stage.decode_latents(query)
        residual = residual - stage.out_proj(vector)[0].t()


class Codebooks:
    """Codebooks as running means of the latents they stand for, instead of by gradient.

    Means follow a moving encoder within some hundred updates and cannot diverge from it.
    Source: van den Oord et al. 2017, "Neural discrete representation learning", appendix A.1.
    """

    DECAY = 0.99
    DEAD_SHARE = 0.03
    """A code used less than this share of the mean has fallen out of use."""
    UPDATES_KEPT = 16
    """Updates whose latents are kept to revive codes from."""

    def __init__(self, num_stages: int, codebook_size: int, codebook_dim: int) -> None:
        self.sizes = torch.ones(num_stages, codebook_size)
        """Running mean of the uses of each code an update."""
        self.sums = torch.zeros(num_stages, codebook_size, codebook_dim)
        """Running mean of the sum of latents of each code an update."""
        self.recent: list[list[Tensor]] = []
        """Latents of the last updates, oldest first, a list of stages each."""

    @torch.no_grad()
    def start(self, quantizer: DacQuantizer) -> None:
        """Take over the codebooks as they are."""
        self.sizes.fill_(1.0)
        for index, stage in enumerate(quantizer.quantizers):
            self.sums[index] = stage.codebook.weight

    @torch.no_grad()
    def follow(self, quantizer: DacQuantizer, quantized: Quantized) -> None:
        """Move the codebooks towards the latents of one update."""
        self.count(quantized)
        for index, stage in enumerate(quantizer.quantizers):
            stage.codebook.weight.copy_(
                self.sums[index] / self.sizes[index].clamp(min=1e-9)[:, None]
            )

    @torch.no_grad()
    def count(self, quantized: Quantized) -> None:
        """Note which codes one update used, and for which latents."""
        latents = [query.transpose(1, 2).flatten(0, 1) for query in quantized.projected]
        self.recent = [*self.recent, latents][-self.UPDATES_KEPT :]
        for index in range(len(latents)):
            codes = quantized.codes[:, index].flatten()
            uses = torch.bincount(codes, minlength=self.sizes.shape[1]).to(self.sizes.dtype)
            sums = torch.zeros_like(self.sums[index]).index_add_(0, codes, latents[index])
            self.sizes[index].lerp_(uses, 1 - self.DECAY)
            self.sums[index].lerp_(sums, 1 - self.DECAY)

    @torch.no_grad()
    def revive(
        self, quantizer: DacQuantizer, averages: list[Tensor], generator: torch.Generator
    ) -> int:
        """Move codes out of use (and their averages) to recent latents; return how many."""
        revived = 0
        for index, stage in enumerate(quantizer.quantizers):
            mean = self.sizes[index].mean()
            dead = (self.sizes[index] < self.DEAD_SHARE * mean).nonzero().flatten()
            latents = torch.cat([queries[index] for queries in self.recent])
            picks = torch.randperm(len(latents), generator=generator)[: len(dead)]
            dead = dead[: len(picks)]
            stage.codebook.weight[dead] = latents[picks]
            averages[index][dead] = latents[picks]
            self.sizes[index][dead] = mean
            self.sums[index][dead] = mean * latents[picks]
            revived += len(dead)
        return revived


def _error(a: Tensor, b: Tensor) -> Tensor:
    return functional.mse_loss(a, b, reduction="none").mean((1, 2))


def _fit_projections(stage: DacQuantizerStage, residual: Float[Tensor, "N D"]) -> None:
    """Point the projections of a stage along the main directions of the residual."""
    mean = residual.mean(0)
    basis = _main_directions(torch.cov(residual.t()), stage.codebook.embedding_dim)
    _set_convolution(stage.in_proj, basis.t(), -(mean @ basis))
    _set_convolution(stage.out_proj, basis, mean)


def _main_directions(covariance: Tensor, count: int) -> Tensor:
    _, directions = cast(
        "tuple[Tensor, Tensor]",
        torch.linalg.eigh(covariance),  # pyright: ignore[reportUnknownMemberType]  untyped in torch
    )
    return directions[:, -count:]


def _set_convolution(convolution: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Write a weight-normed convolution of width 1: direction `weight_v`, length `weight_g`."""
    convolution.get_parameter("weight_v").copy_(weight[..., None])
    convolution.get_parameter("weight_g").copy_(weight.square().sum(1).sqrt()[:, None, None])
    convolution.get_parameter("bias").copy_(bias)


def _cosine_clusters(
    points: Float[Tensor, "N _"], clusters: int, generator: torch.Generator, rounds: int = 10
) -> Float[Tensor, "U _"]:
    """k-means by direction, as codes are looked up; a centre is the mean of its points."""
    start = torch.randperm(len(points), generator=generator)
    centers = points[start[torch.arange(clusters) % len(points)]].clone()
    unit = functional.normalize(points)
    for _ in range(rounds):
        nearest = (unit @ functional.normalize(centers).t()).argmax(1)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        filled = counts > 0
        centers[filled] = sums[filled] / counts[filled, None]
        spare = torch.randint(len(points), (int((~filled).sum()),), generator=generator)
        centers[~filled] = points[spare]
    return centers
