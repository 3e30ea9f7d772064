"""Runs that the tests of resuming stop and kill: three that have nothing in common."""

import shutil

import numpy as np

from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.training.data import TrainingData
from melodac.training.trainer import Callbacks
from tests.tiny import TinyTrainer, tiny_model

PLAIN = {}
EVERYTHING_DRAWN = {
    "windows_per_update": 6,
    "micro_batch": 2,
    "context": ((1, 4), (5, 8), (9, 6)),
    "condition": "tags",
    "unconditional_frac": 0.3,
    "tag_shuffle": True,
    "tag_dropout": 0.3,
    "corruption": {
        "token_noise": 0.2,
        "token_noise_updates": 10,
        "own_codes": 0.3,
        "own_codes_from": 2,
        "own_codes_updates": 6,
    },
    "objective": {"label_smoothing": 0.1, "entropy_bonus": 0.01, "entropy_updates": 8},
}
OTHER_ARITHMETIC = {
    "optimizer": "muon",
    "schedule": "wsd",
    "decay_updates": 4,
    "ema_decay": 0.0,
    "dropout": 0.2,
    "compute": {"precision": "bf16", "recompute": True},
    "objective": {"codebook_weights": "auto", "usage_bonus": 0.01, "usage_updates": 0},
}
CONFIGS = {"plain": PLAIN, "drawn": EVERYTHING_DRAWN, "arithmetic": OTHER_ARITHMETIC}

TAGS = (("piano", "slow", "C major"), (), ("violin",), ("piano", "fast"))
TIMINGS = {"frames_per_s", "memory_mb"}


def build_data():
    """Four tracks of uneven length with tags; epochs end inside updates."""
    draw = np.random.default_rng(0)
    train, validation = (
        array_of_tracks([
            (f"t{n}", draw.integers(0, 1024, (n, 2)).astype(np.uint16)) for n in lengths
        ])
        for lengths in ((40, 23, 5, 17), (19, 6))
    )
    return TrainingData(train, validation, 8, train_tags=TAGS, validation_tags=TAGS[:2])


def build_run(config, directory, **callbacks):
    """A fresh trainer of a config in a folder, on a model that reads texts if the config does."""
    return TinyTrainer(
        tiny_model(config.dropout, text_bytes=32 if config.condition == "tags" else 0),
        build_pattern((0, 1), 2),
        build_data(),
        config=config,
        directory=directory,
        identity={"data_fingerprint": "abc"},
        callbacks=Callbacks(**callbacks),
    )


def essence(lines):
    """Lines of a log without what a clock says."""
    return [{key: line[key] for key in line if key not in TIMINGS} for line in lines]


def last_bytes(directory, update):
    """Every byte of a checkpoint, by file."""
    folder = directory / "checkpoints" / f"{update:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def disturb(directory, update):
    """What a kill while writing may leave: a folder unfinished, and another half removed."""
    checkpoints = directory / "checkpoints"
    unfinished = checkpoints / f".unfinished-{update + 1:08d}"
    unfinished.mkdir(exist_ok=True)
    (unfinished / "model.safetensors").write_bytes(b"\x00" * 100)
    removed = checkpoints / ".unfinished-removed-00000001"
    shutil.rmtree(removed, ignore_errors=True)
    removed.mkdir()
