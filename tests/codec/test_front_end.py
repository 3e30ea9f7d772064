"""Codes are written from magnitudes alone, frame by frame, and exactly."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melodac.codec.front_end import HALO, FrontEnd, FrontEndShape, ResidualQuantizer, nearest
from tests.codec.conftest import RATE_HZ, build_spectral_model, compose

HOP = 512
NUM_FRAMES = 24


@pytest.fixture(scope="module")
def front_end() -> FrontEnd:
    return FrontEnd(FrontEndShape())


def noise(seed: int, num_samples: int = NUM_FRAMES * HOP) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, num_samples, generator=generator, dtype=torch.float64)


def sine(hertz: float, phase: float, num_samples: int = NUM_FRAMES * HOP) -> torch.Tensor:
    time_s = torch.arange(num_samples, dtype=torch.float64) / RATE_HZ
    return 0.5 * torch.sin(2 * math.pi * hertz * time_s + phase)[None]


def test_the_shape_says_how_many_features_there_are(front_end):
    assert front_end(noise(0)).shape == (1, NUM_FRAMES, front_end.shape.num_features)


def test_every_frame_is_described_and_a_started_one_is_not(front_end):
    assert [front_end(noise(0, n)).shape[1] for n in (HOP, 2 * HOP - 1, 3 * HOP + 1)] == [1, 1, 3]


def test_a_delay_of_whole_frames_moves_the_features(front_end):
    audio = noise(0)
    later = torch.nn.functional.pad(audio, (3 * HOP, 0))
    torch.testing.assert_close(front_end(later)[:, 3:], front_end(audio), rtol=0, atol=1e-9)


@pytest.mark.parametrize("frame", [0, 9, NUM_FRAMES - 1])
def test_a_frame_hears_its_halo_and_nothing_beyond(front_end, frame):
    before, changed = noise(0), noise(0)
    changed[:, frame * HOP : (frame + 1) * HOP] += noise(1, HOP)
    differs = (front_end(changed) != front_end(before)).any(-1)[0].nonzero()[:, 0]
    first, last = max(0, frame - HALO), min(NUM_FRAMES - 1, frame + HALO)
    assert (int(differs[0]), int(differs[-1])) == (first, last)


def test_a_flipped_sign_changes_nothing(front_end):
    assert torch.equal(front_end(-noise(0)), front_end(noise(0)))


@pytest.mark.parametrize("hertz", [333.0, 1234.5, 5000.0])
def test_a_held_tone_looks_alike_in_every_frame_and_at_every_phase(front_end, hertz):
    inner = slice(HALO, -HALO)
    tones = [front_end(sine(hertz, phase))[0, inner] for phase in (0.0, 1.0, 2.5)]
    other = front_end(sine(hertz * 2 ** (1 / 12), 0.0))[0, inner]
    within = max(float((tone - tones[0][0]).norm(dim=-1).max()) for tone in tones)
    semitone = float((other - tones[0]).norm(dim=-1).min())
    assert within < 0.1 * semitone


def test_features_in_float32_are_those_in_float64(front_end):
    exact = front_end(compose(0, 20_000).double()[None])
    rough = front_end(compose(0, 20_000)[None])
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=0.05)


def test_silence_has_finite_features(front_end):
    assert torch.isfinite(front_end(torch.zeros(1, 5000))).all()


def brute_force(points: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Index of the nearest vector by squared distances in float64."""
    differences = points.double()[:, None] - vectors.double()[None]
    return differences.square().sum(-1).argmin(-1)


@given(
    seed=st.integers(0, 10_000), size=st.integers(2, 40), scale=st.sampled_from([1e-3, 1.0, 50.0])
)
def test_the_nearest_vector_is_that_of_a_search_in_float64(seed, size, scale):
    generator = torch.Generator().manual_seed(seed)
    points = scale * torch.randn(50, 12, generator=generator, dtype=torch.float64)
    vectors = scale * torch.randn(size, 12, generator=generator)
    assert torch.equal(nearest(points, vectors), brute_force(points, vectors))


@pytest.mark.parametrize("share", [1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("size", [128, 4])
def test_two_vectors_nearly_as_near_are_told_apart(share, size):
    generator = torch.Generator().manual_seed(0)
    vectors = 10 + torch.randn(64, size, generator=generator)  # far from 0: rounding is largest
    pairs = torch.randint(64, (2, 500), generator=generator)
    first, second = vectors[pairs].double()
    middle = (first + second) / 2
    points = middle + share * (second - first) * (torch.arange(500) % 2 * 2 - 1)[:, None]
    points = points[pairs[0] != pairs[1]]
    expected = brute_force(points, vectors)
    assert torch.equal(nearest(points, vectors), expected)
    scores = points.float() @ vectors.T - vectors.square().sum(1) / 2
    assert not torch.equal(scores.argmax(1), expected)  # else float32 would do


def test_a_vector_that_occurs_twice_is_the_first_of_both():
    vectors = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    vectors[5] = vectors[2]
    assert nearest(vectors[5:6].double(), vectors).tolist() == [2]


@pytest.fixture
def quantizer() -> ResidualQuantizer:
    return build_spectral_model().quantizer


def test_each_codebook_describes_what_the_ones_before_left_over(quantizer):
    features = build_spectral_model().front_end(compose(99, 50_000).double()[None])[0]
    points = quantizer.project(features)
    codes = quantizer.encode(points)
    left = [
        float((points - quantizer.decode(codes[None, :depth])[0]).square().mean())
        for depth in (1, 2, 3)
    ]
    assert sorted(left, reverse=True) == left
    assert left[-1] < 0.75 * float(points.var(0).mean())


def test_codes_are_nearest_one_codebook_after_another(quantizer):
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 16, generator=generator, dtype=torch.float64)
    residual, codes = points, quantizer.encode(points)
    for book, vectors in zip(codes, quantizer.vectors, strict=True):
        assert torch.equal(book, brute_force(residual, vectors))
        residual = residual - vectors[book].double()
