"""A small model and windows to probe it with; sound, or made to say one code."""

import torch

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.batches import Batch
from melodac.tokens.delay import build_pattern
from melodac.training.config import CollapseConfig
from melodac.training.guards.collapse import CollapseMonitor
from melodac.training.guards.variety import probe_model
from melodac.training.seeding import seeded

K, FRAMES = 2, 100
PATTERN = build_pattern([0, 1], num_codebooks=K)
KINDS = ("usage", "generated_usage", "entropy", "attention")


def build_model():
    config = LanguageModelConfig(
        num_codebooks=K,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ff_dim=64,
        dropout=0.5,
        rope_base=10_000.0,
    )
    with seeded(0, "initialisation"):
        return LanguageModel(config)


def build_monitor(action="warn"):
    return CollapseMonitor(
        CollapseConfig(
            action=action,
            probe_windows=2,
            min_usage_ratio=0.1,
            min_entropy_ratio=0.5,
            max_attention_change=0.7,
        )
    )


def build_probe(frames=FRAMES, num_codes=1024, lengths=None):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(lengths or [frames, frames])
    codes = torch.randint(0, num_codes, (len(lengths), K, frames + 1), generator=generator)
    return Batch(codes, torch.arange(frames) < lengths[:, None])


def any_codes(model, num_items, num_frames):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 1024, (num_items, K, num_frames), generator=generator)


def one_code(model, num_items, num_frames):
    return torch.full((num_items, K, num_frames), 5)


def look(model, probe=None, generate_codes=any_codes):
    return probe_model(model, PATTERN, probe or build_probe(), generate_codes=generate_codes)


def start(model):
    monitor = build_monitor()
    monitor.remember_start(look(model))
    return monitor


def say_one_code(model, codebook=0):
    """Give one head a bias it does not have: the stream gets a constant that only one code reads."""
    with torch.no_grad():
        model.head_norm.weight[0] = 100.0
        model.embedding.weight[:, 0] = 10.0
        model.head.weight[:, 0] = 0.0
        model.head.weight[codebook * 1024 + 7, 0] = 1.0
