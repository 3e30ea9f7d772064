"""Runs as they lie on disk, made up: healthy ones, and what is changed to make them sick."""

import math

import numpy as np
import torch

from melodac.doctor.diagnosis import Patient, examine
from melodac.training.checkpoint import open_checkpoint, write_checkpoint

UNIFORM = math.log(1024)
UPDATES = 600
NUM_CODEBOOKS = 2
RATE = 1e-3
CONFIG = {
    "code_fingerprint": "c0de",
    "data_fingerprint": "da7a",
    "tags_sha256": None,
    "delay": {"name": "musicgen", "delays": [0, 1], "is_flat": False},
    "layout": {"name": "mono", "columns": [{"channel": "mono", "codebook": k} for k in range(2)]},
    "model": {"dim": 8, "num_layers": 1, "num_codebooks": 2, "dropout": 0.1},
    "store": {"codebook_size": 1024, "codec": "bundled", "codebooks": [2]},
    "starts": {"bars_sha256": None, "is_fixed": False},
    "window_frames": 128,
    "train": {
        "updates": UPDATES,
        "learning_rate": RATE,
        "warmup_updates": 50,
        "clip_norm": 1.0,
        "ema_decay": 0.99,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "dropout": 0.1,
        "objective": {"label_smoothing": 0.0},
        "stability": {"rollback_learning_rate_ratio": 0.5},
    },
}


def changed(config, **changes):
    """A config with other values: keys are dotted, with `__` for the dot."""
    config = {
        key: changed(value) if isinstance(value, dict) else value for key, value in config.items()
    }
    for name, value in changes.items():
        at = config
        *folders, last = name.split("__")
        for folder in folders:
            at = at[folder]
        at[last] = value
    return config


def make_tensors(update, seed=0):
    """Weights on a straight way, their average behind them, moments of small gradients."""
    generator = torch.Generator().manual_seed(seed)
    names = {
        "embedding.weight": (64, 8),
        "blocks.0.attention.output.weight": (8, 8),
        "head_norm.weight": (8,),
    }
    start = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    way = {name: torch.randn(shape, generator=generator).sign() for name, shape in names.items()}

    def at(number):
        return {name: 0.1 * start[name] + way[name] * number * RATE * 0.1 for name in names}

    return {
        "model": at(update),
        "ema": at(max(0, update - 50)),
        "optimizer": {
            f"{kind}/{name}": torch.full(shape, size)
            for name, shape in names.items()
            for kind, size in (("exp_avg", 1e-3), ("exp_avg_sq", 1e-4))
        },
    }


def write_run(directory, updates=(500, 600), config=CONFIG, change=lambda update, tensors: None):
    """Checkpoints of some updates; `change` may spoil their tensors."""
    for update in updates:
        tensors = make_tensors(update)
        change(update, tensors)
        state = {"update": update, "versions": {"torch": "2"}}
        write_checkpoint(directory, update, tensors=tensors, state=state, config=config)
    return [open_checkpoint(directory / f"{update:08d}") for update in updates]


def learning_rate(update, peak=RATE, warmup=50):
    return peak * min(1.0, update / warmup)


def make_lines(loss=None, rate=learning_rate, updates=UPDATES, validate=None, **more):
    """The log of a run whose training loss falls from a uniform guess by a tenth of it."""
    generator = np.random.default_rng(0)

    def falling(update):
        return UNIFORM - 0.7 * (1 - math.exp(-update / 300)) + 0.005 * generator.standard_normal()

    loss = loss or falling
    lines = []
    for update in range(1, updates + 1):
        value = loss(update)
        lines.append({
            "kind": "train",
            "update": update,
            "learning_rate": rate(update),
            "loss": value,
            **{f"loss_k{k}": value for k in range(NUM_CODEBOOKS)},
            "grad_norm": 0.5,
            "is_clipped": False,
            "is_skipped": False,
            **more,
        })
        if update % 100 == 0:
            held_out = validate(update) if validate else {"loss": falling(update) + 0.05}
            codebooks = {f"loss_k{k}": held_out["loss"] for k in range(NUM_CODEBOOKS)}
            lines.append({"kind": "validation", "update": update, **codebooks, **held_out})
    return lines


def healthy(tmp_path):
    return Patient(write_run(tmp_path), (), make_lines())


def findings_of(patient, **more):
    """Findings by check."""
    return {finding.check: finding for finding in examine(patient, **more).findings}


def sick_checks(patient, **more):
    """Severity of every check that is not well."""
    return {
        check: finding.severity
        for check, finding in findings_of(patient, **more).items()
        if finding.severity in {"warning", "failure"}
    }
