"""A training run small enough to repeat many times."""

import pytest
import torch

from melodac.training.config import TrainConfig


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def train_config():
    return TrainConfig(
        updates=12,
        windows_per_update=4,
        micro_batch=2,
        learning_rate=1e-2,
        min_learning_rate_ratio=0.1,
        warmup_updates=2,
        weight_decay=0.1,
        beta1=0.9,
        beta2=0.95,
        clip_norm=1.0,
        ema_decay=0.9,
        dropout=0.1,
        validate_every=4,
        checkpoint_every=3,
        keep_checkpoints=3,
        seed=5,
    )
