"""Config of a training run and of the overfit gate: `TrainConfig`, its sections, `OverfitConfig`.

Every schedule counts updates. No key has a default, params.yaml is the whole truth. Each section is
passed whole to the one module that uses it.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from melodac.config import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class ObjectiveConfig(Section):
    """Additions to the plain loss in training; reported losses never contain them."""

    label_smoothing: Fraction
    """Probability spread evenly over all codes in a target."""
    codebook_weights: (
        Literal["uniform", "auto", "first"] | Annotated[list[NonNegativeFloat], Field(min_length=1)]
    )
    """Weights: uniform; auto: 1 + alpha k / (K - 1); first: codebook 0 only; or one a codebook."""
    codebook_alpha: NonNegativeFloat
    """Alpha of `auto`."""
    entropy_bonus: NonNegativeFloat
    """Weight of a bonus for the mean entropy of the predictions."""
    entropy_updates: NonNegativeInt
    """Update at which that weight has decayed to 0; 0 keeps it constant."""
    usage_bonus: NonNegativeFloat
    """Weight of a bonus for the entropy of the mean prediction of each codebook."""
    usage_updates: NonNegativeInt
    """Update at which that weight has decayed to 0; 0 keeps it constant."""


class CorruptionConfig(Section):
    """Corruption of the model's inputs in training; targets are always the true codes."""

    token_noise: Fraction
    """Share of input codes that are replaced by random ones."""
    token_noise_updates: NonNegativeInt
    """Update at which that share has decayed to 0; 0 keeps it constant."""
    own_codes: Fraction
    """Share of input codes replaced by the model's own predictions, at the end of the ramp."""
    own_codes_from: NonNegativeInt
    """Last update without own codes."""
    own_codes_updates: NonNegativeInt
    """Updates of the linear ramp after that."""


class StabilityConfig(Section):
    """Thresholds for refused updates, rollbacks and alarms."""

    window: Annotated[int, Field(ge=8)]
    """Accepted updates against which an update is compared."""
    sigma: NonNegativeFloat
    """Robust standard deviations above the median from which an update is refused; 0 refuses only
    updates that are not finite."""
    max_skips_in_a_row: PositiveInt
    """Refused updates in a row after which the run rolls back to its last good checkpoint."""
    max_skip_frac: Share
    """Share of refused updates among the last `window` above which the run rolls back."""
    max_rollbacks: NonNegativeInt
    """Rollback limit: after so many the run stops."""
    rollback_learning_rate_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    """Factor on all later learning rates, at each rollback."""
    clip_frac_alarm: Share
    """Share of clipped updates among the last `window` above which an alarm is raised."""
    update_ratio_alarm: PositiveFloat
    """Norm of an update over the norm of the weights above which an alarm is raised."""


class CollapseConfig(Section):
    """Detection of output collapse, at every validation."""

    action: Literal["warn", "stop", "gate"]
    """Action: warn only logs; stop ends the run; gate fails it at the end if it persists."""
    probe_windows: NonNegativeInt
    """Number of validation windows measured, and of clips generated; 0 switches the probe off."""
    min_usage_ratio: Share
    """Least ratio of distinct sampled codes to distinct true codes, on the same cells."""
    min_entropy_ratio: Share
    """Least ratio of the entropy of sampled codes to that of true codes."""
    max_attention_change: PositiveFloat
    """Largest change of a layer's attention entropy since update 0, as a share of its maximum."""


class ComputeConfig(Section):
    """Settings of computation; another choice changes the last digits."""

    precision: Literal["fp32", "bf16", "fp16"]
    """Precision of the forward and backward pass; weights, optimizer state and loss are fp32."""
    tf32: bool
    """True to let CUDA multiply fp32 matrices with 10 bits of mantissa."""
    compile: bool
    """True to fuse the model with `torch.compile`: minutes of waiting, then faster updates."""
    recompute: bool
    """True to recompute activations in the backward pass: less memory, about a third more time."""


class TrainConfig(Section):
    """Config of one training run."""

    updates: PositiveInt
    """Optimizer steps of the whole run."""
    windows_per_update: PositiveInt
    """Windows of one update, over all micro-batches and processes."""
    micro_batch: PositiveInt
    """Windows of one forward pass (gradient accumulation); divides `windows_per_update`."""
    context: tuple[tuple[PositiveInt, PositiveInt], ...]
    """First update and window frames of each stage; empty: the index's frames throughout."""
    optimizer: Literal["adamw", "muon"]
    """Optimizer; muon: block matrices by orthogonalised momentum, everything else by AdamW."""
    learning_rate: PositiveFloat
    """Peak learning rate, reached after the warm-up."""
    schedule: Literal["cosine", "linear", "constant", "wsd"]
    """Learning-rate schedule after warm-up; wsd is constant up to the last `decay_updates`."""
    min_learning_rate_ratio: Share
    """Learning rate of the last update as a fraction of the peak; constant stays at the peak."""
    warmup_updates: NonNegativeInt
    """Updates of linear warm-up; below `updates`."""
    decay_updates: NonNegativeInt
    """Updates of linear decay at the end of wsd."""
    weight_decay: NonNegativeFloat
    """Decoupled weight decay of matrices; embeddings, norms and biases have none."""
    beta1: Fraction
    """Decay of the mean gradient in the optimizer state."""
    beta2: Fraction
    """Decay of the mean squared gradient in the optimizer state."""
    clip_norm: PositiveFloat
    """Gradient norm above which gradients are clipped."""
    ema_decay: Fraction
    """Decay of the EMA weights, which are validated and sampled; 0 switches them off."""
    dropout: Fraction
    """Share of activations dropped in training; the model is built with it."""
    condition: Literal["none", "tags"]
    """Conditioning of the model: none, or texts of tags."""
    unconditional_frac: Fraction
    """Share of items under the null condition; guidance needs some."""
    tag_shuffle: bool
    """True to draw the order of an item's tags anew each time."""
    tag_dropout: Fraction
    """Share of tags left out."""
    tag_limit: NonNegativeInt
    """Most tags of an item; 0 takes all."""
    objective: ObjectiveConfig
    corruption: CorruptionConfig
    stability: StabilityConfig
    collapse: CollapseConfig
    compute: ComputeConfig
    validate_every: PositiveInt
    """Updates between validations; the last update is always validated."""
    checkpoint_every: PositiveInt
    """Updates between checkpoints; the last update always gets one."""
    keep_checkpoints: Annotated[int, Field(ge=2)]
    """Number of newest checkpoints kept; at least 2, so that a damaged one has a predecessor."""
    keep_checkpoints_mb: NonNegativeInt
    """Megabytes that older checkpoints may use; 2 stay in any case, 0 sets no limit."""
    seed: NonNegativeInt
    """Seed of initialisation, window order, dropout and all other draws."""

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

    @model_validator(mode="after")
    def _decay_fits(self) -> "TrainConfig":
        if self.warmup_updates + self.decay_updates > self.updates:
            raise ValueError(
                f"warmup_updates ({self.warmup_updates}) and decay_updates ({self.decay_updates}) "
                f"together must not exceed updates ({self.updates})"
            )
        return self

    @model_validator(mode="after")
    def _context_grows_in_order(self) -> "TrainConfig":
        firsts = [first for first, _ in self.context]
        is_ordered = all(one < other for one, other in pairwise(firsts))
        # the last stage may begin after the end of the run, as in a shortened run
        if firsts and (firsts[0] != 1 or not is_ordered):
            raise ValueError(
                f"context must begin at update 1 and rise: its stages begin at {firsts}"
            )
        return self


class OverfitConfig(Section):
    """Overfit gate before a long run: a few windows must be memorised and generated freely."""

    action: Literal["stop", "warn", "off"]
    """Action: stop: a failed gate ends the pipeline; warn: it is logged and the pipeline goes on;
    off: the gate is skipped."""
    windows: Annotated[int, Field(ge=1, le=16)]
    """Windows to memorise; fewer if fewer can be told apart."""
    window_frames: Annotated[int, Field(ge=16, le=2048)]
    """Frames of each window; fewer if the tracks are shorter."""
    prefix_frames: PositiveInt
    """Frames given to a free run, so that it knows which window to reproduce; not scored. Raised up
    to half a window if they do not tell the windows apart."""
    updates: PositiveInt
    """Most updates of the gate; other settings are those of the real run."""
    stop_loss: NonNegativeFloat
    """Teacher-forced nats per code that stop the gate early; 0 never does."""
    min_accuracy: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of freely generated cells that must equal the truth."""
    seed: NonNegativeInt
    """Seed of the gate's windows and initialisation."""

    @model_validator(mode="after")
    def _prefix_leaves_frames(self) -> "OverfitConfig":
        if self.prefix_frames >= self.window_frames:
            raise ValueError(
                f"prefix_frames ({self.prefix_frames}) must be below "
                f"window_frames ({self.window_frames})"
            )
        return self
