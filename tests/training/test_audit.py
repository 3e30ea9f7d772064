"""Laws of the start audit: every named size passes, each way of starting wrong is named."""

import pytest
import torch

from melodac.models.language_model import LanguageModel
from melodac.models.sizes import build_config
from melodac.tokens.delay import PATTERN_NAMES, apply_delay, build_pattern, cell_exists
from melodac.training.audit import audit_start
from melodac.training.seeding import seeded
from melodac.training.update import Part

K = 9


def build(size="nano"):
    with seeded(0, "initialisation"):
        return LanguageModel(build_config(size, num_codebooks=K, dropout=0.1))


def part(pattern, frames=16, items=2):
    """Codes that repeat, as those of music do."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1024, (items, K, frames // 2), generator=generator)
    sequence = apply_delay(codes.repeat_interleave(2, dim=-1), pattern)
    counted = cell_exists(pattern, frames).T.expand_as(sequence)
    return Part(0, range(items), sequence, counted)


def audit(model, delay="musicgen"):
    pattern = build_pattern(delay)
    return audit_start(model, [part(pattern)], pattern)


@pytest.mark.parametrize("delay", PATTERN_NAMES)
def test_a_fresh_model_passes_under_every_pattern(delay):
    report = audit(build(), delay)
    assert report.problems == ()


@pytest.mark.parametrize("size", ["micro", "small"])
def test_larger_fresh_models_pass(size):
    assert audit(build(size)).problems == ()
