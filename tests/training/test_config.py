"""What a config of training refuses."""

import pytest
from pydantic import ValidationError

from melodac.training.config import OverfitConfig, TrainConfig

OVERFIT = {
    "action": "stop",
    "windows": 2,
    "window_frames": 128,
    "prefix_frames": 4,
    "updates": 100,
    "stop_loss": 0.05,
    "min_accuracy": 0.99,
    "seed": 0,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch": 3}, r"micro_batch \(3\) must divide windows_per_update \(4\)"),
        ({"warmup_updates": 12}, r"warmup_updates \(12\) must be below updates \(12\)"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"keep_checkpoints": 1}, "greater than or equal to 2"),
        ({"ema_decay": 1.0}, "less than 1"),
        ({"learning_rat": 1.0}, "Extra inputs are not permitted"),
        ({"unconditional_frac": 1.0}, "less than 1"),
        ({"decay_updates": 11}, r"decay_updates \(11\) together must not exceed updates \(12\)"),
        ({"context": ((2, 8),)}, r"context must begin at update 1 and rise"),
        ({"context": ((1, 4), (1, 8))}, r"and rise: its stages begin at \[1, 1\]"),
    ],
)
def test_a_wrong_run_is_refused(train_config, changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(train_config.model_dump() | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-3}, "Extra inputs are not permitted"),
        ({"prefix_frames": 128}, r"prefix_frames \(128\) must be below window_frames \(128\)"),
        ({"prefix_frames": 0}, "greater than 0"),
    ],
)
def test_a_wrong_gate_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        OverfitConfig.model_validate(OVERFIT | changes)
