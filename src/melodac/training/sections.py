"""Sections of `TrainConfig`: objective, corruption, stability, collapse, compute.

Each is handed whole to the one file that acts on it. Every schedule counts updates.
"""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from melodac.config import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class ObjectiveConfig(Section):
    """What training follows beside the plain loss; what is reported never contains any of it."""

    label_smoothing: Fraction
    """Probability spread evenly over the codes of a target."""
    codebook_weights: (
        Literal["uniform", "auto", "first"] | Annotated[list[NonNegativeFloat], Field(min_length=1)]
    )
    """uniform; auto: 1 + alpha k / (K - 1); first: codebook 0 alone; or one weight a codebook."""
    codebook_alpha: NonNegativeFloat
    """Alpha of `auto`."""
    entropy_bonus: NonNegativeFloat
    """Weight of the mean entropy of the predictions, rewarded."""
    entropy_updates: NonNegativeInt
    """Update at which that weight has fallen to 0; 0 never lets it fall."""
    usage_bonus: NonNegativeFloat
    """Weight of the entropy of the mean prediction of each codebook, rewarded."""
    usage_updates: NonNegativeInt
    """Update at which that weight has fallen to 0; 0 never lets it fall."""


class CorruptionConfig(Section):
    """What training reads instead of the truth; targets are always the truth."""

    token_noise: Fraction
    """Share of read codes that are replaced by random ones."""
    token_noise_updates: NonNegativeInt
    """Update at which that share has fallen to 0; 0 never lets it fall."""
    own_codes: Fraction
    """Share of read codes that are replaced by what the model says itself, at the end."""
    own_codes_from: NonNegativeInt
    """Last update without any."""
    own_codes_updates: NonNegativeInt
    """Updates of linear rise after that."""


class StabilityConfig(Section):
    """When an update is refused, when the run goes back, when it says so."""

    window: Annotated[int, Field(ge=8)]
    """Accepted updates that an outlier is judged by."""
    sigma: NonNegativeFloat
    """Robust standard deviations above their median that refuse an update; 0 refuses none but those
    that are not finite."""
    max_skips_in_a_row: PositiveInt
    """Refused updates after which the run goes back to its last good checkpoint."""
    max_skip_frac: Share
    """Share of refused updates among the last `window` above which it goes back too."""
    max_rollbacks: NonNegativeInt
    """Times it may go back before it stops."""
    rollback_learning_rate_ratio: Annotated[float, Field(gt=0.0, le=1.0)]
    """Factor on every later learning rate, each time it goes back."""
    clip_frac_alarm: Share
    """Share of clipped updates among the last `window` above which it says so."""
    update_ratio_alarm: PositiveFloat
    """Size of an update beside the weights it changes above which it says so."""


class CollapseConfig(Section):
    """What is looked at, at every validation, for a model that says less and less."""

    action: Literal["warn", "stop", "gate"]
    """warn: say it; stop: end the run; gate: run on, and fail at the end if it still holds."""
    probe_windows: NonNegativeInt
    """Validation windows looked at and as many sampled; 0 looks at nothing."""
    min_usage_ratio: Share
    """Distinct codes said beside distinct codes in the truth, on the same positions."""
    min_entropy_ratio: Share
    """Entropy of sampled codes beside the entropy of the truth."""
    max_attention_change: PositiveFloat
    """Change of a layer's attention entropy since update 0, entropy as a share of its maximum."""


class ComputeConfig(Section):
    """How numbers are computed; another choice gives other last digits."""

    precision: Literal["fp32", "bf16", "fp16"]
    """Of the forward and backward pass; weights, moments and loss are always fp32."""
    tf32: bool
    """Let CUDA multiply fp32 matrices with 10 bits of mantissa."""
    compile: bool
    """Fuse the model with `torch.compile`: minutes of waiting, then faster updates."""
    recompute: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
