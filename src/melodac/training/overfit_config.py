"""The config of the overfit gate: that of the real run, less its data and its regularisers.

What is tested must be what will run, so optimiser, rate, schedule, clipping, stability, precision
and condition stay as they are. What the gate does not read here it does not depend on: the length
of the real run, when it validates and what it keeps.
"""

from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.sections import CollapseConfig, CorruptionConfig, ObjectiveConfig

_WARMUP_FRAC = 0.1
"""Most of the gate that warms up: Adam needs some tens of gradients to know their size, and a
warm-up of thousands of updates would leave a gate of hundreds at a rate near zero. Not a share of
the real run's length, or the gate would be run again whenever that changes."""

_DECAY_FRAC = 0.2
"""Most of the gate in which wsd falls."""

_PLAIN_OBJECTIVE = ObjectiveConfig(
    label_smoothing=0.0,
    codebook_weights="uniform",
    codebook_alpha=0.0,
    entropy_bonus=0.0,
    entropy_updates=0,
    usage_bonus=0.0,
    usage_updates=0,
)

_NO_CORRUPTION = CorruptionConfig(
    token_noise=0.0,
    token_noise_updates=0,
    own_codes=0.0,
    own_codes_from=0,
    own_codes_updates=0,
)

_NO_PROBES = CollapseConfig(
    action="warn",
    probe_windows=0,
    min_usage_ratio=0.0,
    min_entropy_ratio=0.0,
    max_attention_change=1.0,
)


def gate_config(train: TrainConfig, overfit: OverfitConfig) -> TrainConfig:
    """The run that the gate is.

    Args:
        train: The real run.
        overfit: The gate.
    """
    warmup = min(train.warmup_updates, int(_WARMUP_FRAC * overfit.updates))
    return train.model_copy(
        update={
            "updates": overfit.updates,
            "windows_per_update": overfit.windows,
            "micro_batch": _largest_divisor(overfit.windows, train.micro_batch),
            "context": (),
            "warmup_updates": warmup,
            "decay_updates": min(train.decay_updates, int(_DECAY_FRAC * overfit.updates)),
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "dropout": 0.0,
            "unconditional_frac": 0.0,
            "tag_shuffle": False,
            "tag_dropout": 0.0,
            "objective": _PLAIN_OBJECTIVE,
            "corruption": _NO_CORRUPTION,
            "collapse": _NO_PROBES,
            "validate_every": overfit.updates,
            "checkpoint_every": overfit.updates,
            "keep_checkpoints": 2,
            "keep_checkpoints_mb": 0,
            "seed": overfit.seed,
        }
    )


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
