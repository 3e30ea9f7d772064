"""A training run small enough to repeat many times."""

import numpy as np
import pytest

from melodac.models.config import LanguageModelConfig
from melodac.models.language_model import LanguageModel
from melodac.tokens.array import array_of_tracks
from melodac.tokens.delay import build_pattern
from melodac.tokens.windows import ANYWHERE
from melodac.training.config import (
    CollapseConfig,
    ComputeConfig,
    CorruptionConfig,
    ObjectiveConfig,
    StabilityConfig,
    TrainConfig,
)
from melodac.training.data import TrainingData
from melodac.training.seeding import seeded
from melodac.training.trainer import Callbacks, Trainer

NUM_CODEBOOKS = 2
FRAMES = 8
PLAIN_OBJECTIVE = ObjectiveConfig(
    label_smoothing=0.0,
    codebook_weights="uniform",
    codebook_alpha=0.5,
    entropy_bonus=0.0,
    entropy_updates=0,
    usage_bonus=0.0,
    usage_updates=0,
)
NO_CORRUPTION = CorruptionConfig(
    token_noise=0.0,
    token_noise_updates=0,
    own_codes=0.0,
    own_codes_from=0,
    own_codes_updates=0,
)


def change_config(config, changes):
    """A config with some values changed; a dict changes some values of a section."""
    return config.model_copy(
        update={
            key: getattr(config, key).model_copy(update=value) if isinstance(value, dict) else value
            for key, value in changes.items()
        }
    )


@pytest.fixture
def train_config():
    """Twelve updates of 4 windows; the data below has 13 windows, so epochs end inside updates."""
    return TrainConfig(
        updates=12,
        windows_per_update=4,
        micro_batch=2,
        context=(),
        optimizer="adamw",
        learning_rate=1e-2,
        schedule="cosine",
        min_learning_rate_ratio=0.1,
        warmup_updates=2,
        decay_updates=0,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        clip_norm=1.0,
        ema_decay=0.9,
        dropout=0.1,
        condition="none",
        unconditional_frac=0.0,
        tag_shuffle=False,
        tag_dropout=0.0,
        tag_limit=0,
        objective=PLAIN_OBJECTIVE,
        corruption=NO_CORRUPTION,
        stability=StabilityConfig(
            window=16,
            sigma=8.0,
            max_skips_in_a_row=3,
            max_skip_frac=0.25,
            max_rollbacks=2,
            rollback_learning_rate_ratio=0.5,
            clip_frac_alarm=1.0,
            update_ratio_alarm=1.0,
        ),
        collapse=CollapseConfig(
            action="warn",
            probe_windows=0,
            min_usage_ratio=0.1,
            min_entropy_ratio=0.5,
            max_attention_change=0.7,
        ),
        compute=ComputeConfig(precision="fp32", tf32=False, compile=False, recompute=False),
        validate_every=4,
        checkpoint_every=3,
        keep_checkpoints=3,
        keep_checkpoints_mb=0,
        seed=5,
    )


def tiny_model(dropout=0.1, seed=0, embedding="learned", vectors=None, text_bytes=0, **changes):
    """A model of one narrow block; it reads texts of up to `text_bytes` bytes."""
    config = LanguageModelConfig(
        num_codebooks=NUM_CODEBOOKS,
        dim=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        ff_dim=32,
        dropout=dropout,
        rope_base=10_000.0,
        embedding=embedding,
        vector_dim=0 if vectors is None else vectors.shape[-1],
        memory_dim=8 if text_bytes else 0,
        text_bytes=text_bytes,
        text_layers=1 if text_bytes else 0,
    ).model_copy(update=changes)
    with seeded(seed, "initialisation"):
        return LanguageModel(config, vectors)


@pytest.fixture
def build_model():
    return tiny_model


class TinyTrainer(Trainer):
    """A trainer that keeps its callbacks until `run`, so that a test may change them."""

    def __init__(self, *args, callbacks=None, **named):
        super().__init__(*args, **named)
        self.callbacks = callbacks or Callbacks()

    def run(self):
        return super().run(self.callbacks)


@pytest.fixture
def data():
    generator = np.random.default_rng(0)

    def tracks(*lengths):
        return array_of_tracks([
            (f"t{n}", generator.integers(0, 1024, (n, NUM_CODEBOOKS)).astype(np.uint16))
            for n in lengths
        ])

    return TrainingData(tracks(40, 23, 5, 17), tracks(19, 6), FRAMES)


@pytest.fixture
def build_trainer(build_model, data, train_config):
    """A fresh trainer; its `updates`, `validations` and `events` collect what callbacks hear."""

    def build(
        directory=None,
        stop_at=None,
        delay=(0, 1),
        identity=None,
        starts=ANYWHERE,
        shape=(),
        **changes,
    ):
        config = change_config(train_config, changes)
        updates, validations, events = [], [], []
        trainer = TinyTrainer(
            build_model(config.dropout, **dict(shape)),
            build_pattern(delay, NUM_CODEBOOKS),
            data._replace(starts=starts),
            config=config,
            directory=directory,
            identity=identity or {"data_fingerprint": "abc"},
            callbacks=Callbacks(
                updates.append, validations.append, lambda: len(updates) == stop_at, events.append
            ),
        )
        trainer.updates, trainer.validations, trainer.events = updates, validations, events
        return trainer

    return build
