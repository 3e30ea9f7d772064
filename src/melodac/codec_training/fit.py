"""Fit of the quantizer to music before training: directions, vectors, a linear decoder.

Principal components of the features, then k-means for each codebook on the residual of the ones
before, and least squares from quantized points to log magnitudes, where the decoder starts.
"""

from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from melodac.codec.frame_decoder import FrameDecoder
from melodac.codec.front_end import ResidualQuantizer

MIN_SHARE = 0.1
"""Share of the mean cluster size below which a cluster moves to the worst described points."""

_PIECE = 1024


@torch.no_grad()
def fit_quantizer(
    quantizer: ResidualQuantizer,
    features: Float[Tensor, "T _"],
    generator: torch.Generator,
    rounds: int,
) -> None:
    """Fill `quantizer` from features of frames, drawn as they occur in music."""
    mean = features.double().mean(0)
    centred = features.double() - mean
    covariance = centred.T @ centred / len(centred)
    # untyped in torch
    _, vectors = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(covariance))  # pyright: ignore[reportUnknownMemberType]
    directions = vectors.flip(1)  # eigh sorts ascending
    quantizer.mean.copy_(mean)
    quantizer.directions.copy_(directions[:, : quantizer.directions.shape[0]].T)
    residual = quantizer.project(features).float()
    for vectors in tqdm(quantizer.vectors, desc="codebooks", unit="codebook", leave=False):
        vectors.copy_(cluster(residual, len(vectors), generator, rounds))
        residual = residual - vectors[_nearest(residual, vectors)]


@torch.no_grad()
def fit_outline(
    decoder: FrameDecoder, points: Float[Tensor, "T _"], log_magnitudes: Float[Tensor, "T F"]
) -> None:
    """Set the decoder's linear estimate by ridge regression."""
    inputs = torch.cat([points.double(), torch.ones(len(points), 1, dtype=torch.float64)], 1)
    gram = inputs.T @ inputs
    gram += torch.eye(len(gram), dtype=torch.float64) * (1e-4 * gram.diagonal().mean())
    targets = inputs.T @ log_magnitudes.double()
    solution = cast("Tensor", torch.linalg.solve(gram, targets))  # pyright: ignore[reportUnknownMemberType]  untyped
    decoder.outline.weight.copy_(solution[:-1].T)
    decoder.outline.bias.copy_(solution[-1])


def cluster(
    points: Float[Tensor, "T _"], num_clusters: int, generator: torch.Generator, rounds: int
) -> Float[Tensor, "U _"]:
    """Run k-means from random points; nearly empty clusters move to badly described points."""
    first = torch.randperm(len(points), generator=generator)[:num_clusters]
    centres = points[first].clone()
    for turn in range(rounds):
        chosen = _nearest(points, centres)
        counts = torch.bincount(chosen, minlength=num_clusters).float()
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
        small = (counts < MIN_SHARE * len(points) / num_clusters).nonzero()[:, 0]
        if len(small) and turn < rounds - 3:  # the last rounds only settle
            # clamped, since a draw needs a positive weight even if every point is described exactly
            errors = (points - centres[chosen]).square().sum(1).clamp(min=1e-12)
            worst = torch.multinomial(errors, len(small), generator=generator)
            centres[small] = points[worst]
    return centres


def _nearest(points: Float[Tensor, "T _"], vectors: Float[Tensor, "U _"]) -> Int64[Tensor, " T"]:
    """Find the nearest vectors in float32, in pieces whose scores stay in the CPU cache."""
    half = vectors.square().sum(1) / -2
    pieces = range(0, len(points), _PIECE)
    return torch.cat([
        torch.addmm(half, points[start : start + _PIECE], vectors.T).argmax(1) for start in pieces
    ])
