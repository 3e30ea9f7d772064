"""What decides a training run and the overfit gate: `TrainConfig`, `OverfitConfig`.

Every schedule counts updates. No key has a default, params.yaml is the whole truth. Training and
the pipeline may import this file.
"""

from typing import Annotated

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from melodac.config import Section

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class TrainConfig(Section):
    """One run of the trainer."""

    updates: PositiveInt
    """Optimizer steps of the whole run."""
    windows_per_update: PositiveInt
    """Windows whose mean loss one update follows."""
    micro_batch: PositiveInt
    """Windows in memory at once; divides `windows_per_update`."""
    learning_rate: PositiveFloat
    """Peak rate, reached after the warm-up."""
    min_learning_rate_ratio: Annotated[float, Field(ge=0.0, le=1.0)]
    """Rate of the last update as a fraction of the peak."""
    warmup_updates: NonNegativeInt
    """Updates of linear rise; below `updates`."""
    weight_decay: NonNegativeFloat
    """Decoupled decay of matrices; embeddings, norms and biases have none."""
    beta1: Fraction
    """Memory of the mean gradient."""
    beta2: Fraction
    """Memory of the squared gradient."""
    clip_norm: PositiveFloat
    """Largest gradient norm that is used as it is."""
    ema_decay: Fraction
    """Memory of the averaged weights that are validated and sampled; 0 turns averaging off."""
    dropout: Fraction
    """Share of activations dropped in training; the model is built with it."""
    validate_every: PositiveInt
    """Updates between validations; the last update is always validated."""
    checkpoint_every: PositiveInt
    """Updates between checkpoints; the last update is always kept."""
    keep_checkpoints: Annotated[int, Field(ge=2)]
    """Newest checkpoints kept; at least 2, so that a damaged one has a forerunner."""
    seed: NonNegativeInt
    """Seed of initialisation, window order and dropout."""

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> "TrainConfig":
        if self.windows_per_update % self.micro_batch:
            raise ValueError(
                f"micro_batch ({self.micro_batch}) must divide "
                f"windows_per_update ({self.windows_per_update})"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends_in_the_run(self) -> "TrainConfig":
        if self.warmup_updates >= self.updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) must be below updates ({self.updates})"
            )
        return self


class OverfitConfig(Section):
    """The gate before a long run: a few windows must be memorised and freely run back."""

    windows: Annotated[int, Field(ge=1, le=16)]
    """Windows to memorise."""
    window_frames: Annotated[int, Field(ge=16, le=2048)]
    """Frames of each window."""
    prefix_frames: PositiveInt
    """Frames given to the free run, so that it knows which window to run back; not scored."""
    updates: PositiveInt
    """Most updates the gate may take."""
    learning_rate: PositiveFloat
    """Peak rate of the gate's own schedule."""
    warmup_updates: NonNegativeInt
    """Updates of linear rise; below `updates`."""
    stop_loss: NonNegativeFloat
    """Teacher-forced nats per code at which memorising ends early; 0 never ends early."""
    min_accuracy: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of freely run cells that must equal the truth."""
    seed: NonNegativeInt
    """Seed of the gate's initialisation."""

    @model_validator(mode="after")
    def _warmup_ends_in_the_run(self) -> "OverfitConfig":
        if self.warmup_updates >= self.updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) must be below updates ({self.updates})"
            )
        return self

    @model_validator(mode="after")
    def _prefix_leaves_frames(self) -> "OverfitConfig":
        if self.prefix_frames >= self.window_frames:
            raise ValueError(
                f"prefix_frames ({self.prefix_frames}) must be below "
                f"window_frames ({self.window_frames})"
            )
        return self
