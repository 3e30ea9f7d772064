"""Models and batches that the tests of the audit look at."""

import torch

from melodac.models.config import build_config
from melodac.models.language_model import LanguageModel
from melodac.tokens.delay import apply_delay, build_pattern, cell_exists
from melodac.training.data import Part
from melodac.training.guards.start import audit_start
from melodac.training.seeding import seeded


def build(size="nano", *, num_codebooks=2, reads_text=False):
    config = build_config(size, num_codebooks=num_codebooks, dropout=0.1, reads_text=reads_text)
    with seeded(0, "initialisation"):
        return LanguageModel(config)


def part(pattern, frames=16, items=2):
    """Codes that repeat, as those of music do."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 1024, (items, pattern.num_codebooks, frames // 2), generator=generator)
    sequence = apply_delay(codes.repeat_interleave(2, dim=-1), pattern)
    counted = cell_exists(pattern, frames).T.expand_as(sequence)
    return Part(0, range(items), sequence, counted)


def audit(model, delay="musicgen"):
    pattern = build_pattern(delay, model.config.num_codebooks)
    return audit_start(model, [part(pattern)], pattern)
