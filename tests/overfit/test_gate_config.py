"""Laws of the gate's config: it is the real run's, but for what the gate says it changes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melodac.overfit.gate import gate_config
from melodac.training.config import OverfitConfig, TrainConfig

GATE = OverfitConfig(
    action="stop",
    windows=2,
    window_frames=16,
    prefix_frames=2,
    updates=300,
    stop_loss=0.05,
    min_accuracy=0.99,
    seed=7,
)
SAME = {
    "optimizer",
    "learning_rate",
    "schedule",
    "min_learning_rate_ratio",
    "beta1",
    "beta2",
    "clip_norm",
    "condition",
    "tag_limit",
    "stability",
    "compute",
}
"""Keys that the gate must take as they are."""

CHANGED = {
    "updates",
    "windows_per_update",
    "micro_batch",
    "context",
    "warmup_updates",
    "decay_updates",
    "weight_decay",
    "ema_decay",
    "dropout",
    "unconditional_frac",
    "tag_shuffle",
    "tag_dropout",
    "objective",
    "corruption",
    "collapse",
    "validate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_checkpoints_mb",
    "seed",
}
"""Size of the data, regularisers, and what leaves no trace in the gate."""


def test_every_key_is_kept_or_changed_on_purpose():
    assert set(TrainConfig.model_fields) == SAME | CHANGED
    assert not SAME & CHANGED


def test_what_decides_learning_is_that_of_the_real_run(train_config):
    gate = gate_config(train_config, GATE)
    for key in SAME:
        assert getattr(gate, key) == getattr(train_config, key), key


def test_nothing_regularises(train_config):
    gate = gate_config(train_config, GATE)
    assert gate.weight_decay == gate.dropout == gate.ema_decay == gate.unconditional_frac == 0
    assert gate.tag_dropout == gate.corruption.token_noise == gate.corruption.own_codes == 0
    assert gate.objective.label_smoothing == gate.objective.entropy_bonus == 0
    assert gate.objective.usage_bonus == 0
    assert gate.objective.codebook_weights == "uniform"
    assert gate.updates == 300
    assert gate.seed == 7
    assert gate.context == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 100_000},
        {"weight_decay": 0.3},
        {"ema_decay": 0.5},
        {"validate_every": 7},
        {"checkpoint_every": 9},
        {"keep_checkpoints": 5},
        {"keep_checkpoints_mb": 50},
        {"seed": 99},
    ],
)
def test_the_gate_does_not_depend_on_the_length_of_the_run_or_what_it_keeps(train_config, changes):
    # dvc.yaml leaves these keys out of the stage, so they must not reach it
    changed = train_config.model_copy(update=changes)
    assert gate_config(changed, GATE) == gate_config(train_config, GATE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    updates=st.integers(1, 5000),
    windows=st.integers(1, 16),
    micro_batch=st.integers(1, 64),
    warmup=st.integers(0, 10_000),
    decay=st.integers(0, 10_000),
)
def test_any_gate_of_any_run_is_a_valid_run(
    train_config, updates, windows, micro_batch, warmup, decay
):
    real = train_config.model_copy(
        update={
            "updates": 30_000,
            "windows_per_update": micro_batch,
            "micro_batch": micro_batch,
            "warmup_updates": warmup,
            "decay_updates": decay,
            "schedule": "wsd",
        }
    )
    gate = gate_config(real, GATE.model_copy(update={"updates": updates, "windows": windows}))
    assert TrainConfig.model_validate(gate.model_dump()) == gate
    assert gate.warmup_updates <= min(warmup, updates / 10)
    assert gate.micro_batch <= micro_batch
