"""The config of the overfit gate: that of the real run, less its data and its regularisers.

What is tested must be what will run, so optimiser, rates, clipping, precision and condition stay as
they are. Training and the pipeline may import this file.
"""

from melodac.training.config import OverfitConfig, TrainConfig
from melodac.training.sections import CorruptionConfig, ObjectiveConfig

_FEWEST_WARMUP_UPDATES = 10
"""Updates after which Adam's second moment is a mean of many gradients, not of one: at 0.95 a first
gradient weighs 0.6 of what it weighed."""

PLAIN_OBJECTIVE = ObjectiveConfig(
    label_smoothing=0.0,
    codebook_weights="uniform",
    codebook_alpha=0.0,
    entropy_bonus=0.0,
    entropy_updates=0,
    usage_bonus=0.0,
    usage_updates=0,
)
"""The loss itself."""

NO_CORRUPTION = CorruptionConfig(
    token_noise=0.0,
    token_noise_updates=0,
    own_codes=0.0,
    own_codes_from=0,
    own_codes_updates=0,
)
"""The truth is read."""


def gate_config(train: TrainConfig, overfit: OverfitConfig) -> TrainConfig:
    """The run that the gate is.

    The warm-up keeps its share of the run, for it is part of the schedule's shape, but not fewer
    updates than Adam needs to know the size of gradients, and never more than in the real run: else
    a warm-up of thousands would leave a short gate at a rate near zero. The fall of wsd keeps its
    share.

    Args:
        train: The real run.
        overfit: The gate.
    """
    share = overfit.updates / train.updates
    fewest = max(_FEWEST_WARMUP_UPDATES, round(train.warmup_updates * share))
    warmup = min(train.warmup_updates, fewest, overfit.updates - 1)
    decay = min(round(train.decay_updates * share), overfit.updates - warmup)
    changes = {
        "updates": overfit.updates,
        "windows_per_update": overfit.windows,
        "micro_batch": overfit.windows,
        "context": (),
        "warmup_updates": warmup,
        "decay_updates": decay,
        "weight_decay": 0.0,
        "ema_decay": 0.0,
        "dropout": 0.0,
        "unconditional_frac": 0.0,
        "tag_shuffle": False,
        "tag_dropout": 0.0,
        "objective": PLAIN_OBJECTIVE,
        "corruption": NO_CORRUPTION,
        "collapse": train.collapse.model_copy(update={"action": "warn", "probe_windows": 0}),
        "validate_every": overfit.updates,
        "checkpoint_every": overfit.updates,
        "seed": overfit.seed,
    }
    given = {name: getattr(train, name) for name in TrainConfig.model_fields}
    return TrainConfig(**given | changes)
