"""The fit: k-means that keeps every vector in use, and a linear guess of the spectrum."""

from itertools import pairwise

import torch

from melodac.codec.frame_decoder import FrameDecoder, FrameDecoderShape
from melodac.codec.front_end import FrontEndShape, ResidualQuantizer, nearest
from melodac.codec_training.trainer import cluster, fit_outline, fit_quantizer

SHAPE = FrontEndShape(
    num_bands=8, num_slice_bands=2, num_directions=8, num_codebooks=4, codebook_size=16
)


def features(seed: int, frames: int = 2000) -> torch.Tensor:
    """Frames whose variance falls from feature to feature, around a mean that is not 0."""
    spread = torch.logspace(0, -2, SHAPE.num_features)
    generator = torch.Generator().manual_seed(seed)
    return 3.0 + torch.randn(frames, SHAPE.num_features, generator=generator) * spread


def fitted(seed: int = 0) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(SHAPE)
    fit_quantizer(quantizer, features(0), torch.Generator().manual_seed(seed), rounds=8)
    return quantizer


def test_directions_are_orthonormal_and_ordered_by_variance():
    quantizer = fitted()
    gram = quantizer.directions @ quantizer.directions.T
    torch.testing.assert_close(gram, torch.eye(8), rtol=0, atol=1e-5)
    variances = quantizer.project(features(0)).var(0)
    assert (variances.diff() <= 0).all()
    torch.testing.assert_close(quantizer.mean, features(0).mean(0))


def test_the_same_generator_gives_the_same_quantizer():
    ours, theirs, other = fitted(), fitted(), fitted(seed=1)
    assert torch.equal(ours.vectors, theirs.vectors)
    assert not torch.equal(ours.vectors, other.vectors)


def test_every_codebook_lowers_what_is_left_of_unseen_frames():
    quantizer = fitted()
    points = quantizer.project(features(1))
    codes = quantizer.encode(points)[None]
    left = [float(points.var(0).sum())] + [
        float((points - quantizer.decode(codes[:, :depth])[0]).square().sum(1).mean())
        for depth in range(1, 5)
    ]
    assert all(after < 0.9 * before for before, after in pairwise(left))


def test_every_vector_is_in_use():
    codes = fitted().encode(fitted().project(features(0)))
    assert all(len(book.unique()) == 16 for book in codes)


def test_more_rounds_describe_points_better_and_means_are_reached():
    points = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)).pow(3)

    def left(rounds: int) -> float:
        centres = cluster(points, 12, torch.Generator().manual_seed(1), rounds)
        chosen = nearest(points.double(), centres)
        return float((points - centres[chosen]).square().sum(1).mean())

    assert left(2) > 1.05 * left(40)
    centres = cluster(points, 12, torch.Generator().manual_seed(1), 40)
    chosen = nearest(points.double(), centres)
    assert torch.bincount(chosen, minlength=12).min() > 0
    means = torch.stack([points[chosen == index].mean(0) for index in range(12)])
    assert (means - centres).norm(dim=1).max() < 0.2 * points.std()


def test_a_cluster_without_points_moves_to_where_points_are_worst_described():
    points = torch.cat([torch.zeros(1000, 2), torch.full((20, 2), 9.0), torch.ones(1000, 2)])
    centres = cluster(points, 3, torch.Generator().manual_seed(0), rounds=12)
    far = nearest(torch.full((1, 2), 9.0).double(), centres)
    torch.testing.assert_close(centres[far], torch.full((1, 2), 9.0))


def test_the_linear_guess_finds_a_linear_spectrum():
    torch.manual_seed(0)
    decoder = FrameDecoder(FrameDecoderShape(dim=8, num_blocks=1), 8, 44_100)
    points, weight = torch.randn(500, 8), torch.randn(1025, 8)
    fit_outline(decoder, points, points @ weight.T - 5.0)
    torch.testing.assert_close(decoder.outline.weight, weight, rtol=0, atol=1e-2)
    torch.testing.assert_close(decoder.outline.bias, torch.full((1025,), -5.0), rtol=0, atol=1e-2)
